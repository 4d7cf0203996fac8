"""World: a trained model with its config, stepped over an explicit state."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from worldsim import noise
from worldsim.actions import check_actions
from worldsim.ambient import isolated, new_weights
from worldsim.config import WorldConfig
from worldsim.devices import autocast_dtype, choose_device
from worldsim.engine import Eager, Engine
from worldsim.errors import InvalidInput, InvalidState
from worldsim.forking import refuse_if_forked
from worldsim.models.cache import KVCache
from worldsim.models.dynamics import Dynamics
from worldsim.models.tokenizer import Tokenizer, to_frames, to_pictures
from worldsim.sampling import SamplingConfig, empty_cache, look_back, step_noise
from worldsim.spec import Pictures, Stages, WorldSpec, WorldStep
from worldsim.stages import finish
from worldsim.starts import Starts
from worldsim.tree import put_rows
from worldsim.weights import MODEL, WorldFiles, find_world, load_strictly, read_world, write_world


@dataclass
class WorldState:
    """Everything a batch of B worlds is, between steps; a tree of tensors with the batch first (`worldsim.tree`)."""

    past: Tensor  # (B, 2, C, h, w) latents of the last frame and of the one before
    cache: KVCache  # the history's keys and values
    seed: Tensor  # (B,) int64
    episode: Tensor  # (B,) int64, resets since the seed was given
    time: Tensor  # (B,) int64, steps of the history, the context of the start included


class World:
    """A learned world. Weights never change; every step is a function of (weights, state, action, noise).

    >>> world = World.from_pretrained(shipped_worlds()[0])
    >>> state = world.reset(seed=[0, 1])
    >>> state, step = world.step(state, world.spec.actions.lowest(2))
    >>> step.frame.shape == (2, world.spec.height, world.spec.width, 3)
    True
    """

    def __init__(self, files: WorldFiles, *, device: str = "auto", where: str = "the world") -> None:
        self.config: WorldConfig = files.config
        self.card = files.card
        self._files = files
        self.device = choose_device(device)
        self.dtype = autocast_dtype(self.device)
        with new_weights():
            self.tokenizer = Tokenizer(self.config.tokenizer)
            self.dynamics = Dynamics(self.config.dynamics)
        modules: dict[str, torch.nn.Module] = {"tokenizer.": self.tokenizer, "dynamics.": self.dynamics}
        load_strictly(modules, files.model, where)
        for module in modules.values():
            module.to(self.device, self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            module.eval().requires_grad_(False)
        self.engine: Engine = Eager(self.dynamics, self.config.sampling)
        self.starts = Starts.from_tensors(files.starts)
        sizes = self.config.dynamics
        self.starts.check((sizes.channels, sizes.height, sizes.width), self.config.actions)
        self.spec = _spec(self.config, self.starts)

    # -- files --------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name: str | Path, *, device: str = "auto") -> World:
        """Load a shipped world by name, a local folder, or a hub id.

        Raises UnknownWorld if there is none, DamagedWorld if its files are not whole or of another version.
        """
        refuse_if_forked()
        folder = find_world(name)
        return cls(read_world(folder), device=device, where=str(folder))

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the world's folder: config, weights, starts, card. All or nothing."""
        write_world(Path(folder), self._files)

    @property
    def sampling(self) -> SamplingConfig:
        """How its frames are drawn."""
        return self.config.sampling

    def with_sampling(self, sampling: SamplingConfig) -> World:
        """This world, drawn in another way, the weights shared; `dataclasses.replace(world.sampling, ...)` makes one.

        Raises InvalidInput for settings that do not fit the world.
        """
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, sampling=sampling)
        other._files = dataclasses.replace(self._files, config=other.config)
        other.engine = self.engine.with_sampling(sampling)
        return other

    def compiled(self, *numbers: int) -> World:
        """This world, its steps compiled to machine code: the same weights and sampling, faster steps.

        Compiles now for these numbers of worlds B that are stepped together, and at the first step for any other. That
        takes half a minute or more for each, and is kept on disk (`worldsim.compiled`). Rounding differs, so a seed
        gives other bytes than uncompiled, as on another device; for itself it is reproducible, and all that is
        promised of states holds. Raises MissingDependency where there is no C++ compiler, InvalidInput where what it
        makes cannot be kept.
        """
        from worldsim.compiled import Compiled  # here: most worlds need no compiler

        other = copy.copy(self)
        other.engine = Compiled(self.dynamics, self.config.sampling)
        for number in numbers:
            other.step(other.reset(range(number)), self.config.actions.lowest(number), pictures="none")
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> World:
        """Copies of environments share the weights, which never change."""
        return copy.copy(self)

    # -- starting -----------------------------------------------------------------------------------------------

    @isolated
    def reset(
        self,
        seed: Sequence[int] | int,
        *,
        episode: Sequence[int] | None = None,
        frames: np.ndarray | None = None,
        actions: np.ndarray | None = None,
        age: Sequence[int] | None = None,
        start: str = "beginning",
    ) -> WorldState:
        """Start B = len(seed) worlds.

        Each begins from a recorded start that its seed chooses: the `beginning` of an episode, or `anywhere` in one.
        Or give pictures of your own: `frames` (B, T, H, W, 3) uint8, T >= 1, and the T-1 `actions` between them,
        (B, T-1) or (B, T-1, A), and, where the first of them is not the beginning of an episode, its `age` (B,) in
        steps since then: a world knows how late it is. `episode` (default 0) tells apart the resets of one seed.
        Seeds of 2**63 or more are taken as `noise.fold_seed` folds them.
        Raises InvalidInput for seeds that are no integers, for pictures of another size or type and for ages
        below 0, InvalidAction for actions that are not the world's, InvalidState where weights make numbers that are
        not finite.
        """
        refuse_if_forked()
        seeds = _integers("seed", _folded([seed] if np.ndim(seed) == 0 else seed))  # type: ignore[list-item,arg-type]
        episodes = [0] * len(seeds) if episode is None else _integers("episode", episode)
        if len(episodes) != len(seeds) or not seeds:
            raise InvalidInput(
                f"reset got {len(seeds)} seeds and {len(episodes)} episode numbers; give one each a world"
            )
        if frames is None and (actions is not None or age is not None):
            raise InvalidInput("reset got actions or an age without frames; give the frames they belong to")
        ages = _ages(age, len(seeds))
        # One world at a time, so that a start does not depend on what else starts in the same call.
        states = []
        for row, (s, e) in enumerate(zip(seeds, episodes, strict=True)):
            if frames is None:
                past, taken, began = self.starts.choose(s, e, start)
            else:
                past, taken = self._encode_context(frames, actions, row, len(seeds))
                began = ages[row]
            states.append(self._begin(past.to(self.device), taken, began, s, e))
        return _stack(states)

    def _encode_context(
        self, frames: np.ndarray, actions: np.ndarray | None, row: int, batch: int
    ) -> tuple[Tensor, np.ndarray]:
        c = self.config.tokenizer
        frames = _array("frames", frames)
        right_shape = frames.ndim == 5 and frames.shape[0] == batch and frames.shape[2:] == (c.height, c.width, 3)
        if frames.dtype != np.uint8 or not right_shape or frames.shape[1] < 1:
            raise InvalidInput(
                f"frames have shape {frames.shape} and type {frames.dtype}; {self.config.name} wants uint8 "
                f"({batch}, T, {c.height}, {c.width}, 3) with T >= 1"
            )
        between = frames.shape[1] - 1
        shape = (batch, between) if self.config.actions.discrete else (batch, between, len(self.config.actions.low))
        taken = np.zeros(shape, np.int64) if actions is None and not between else _array("actions", actions)
        if taken.shape != shape:
            raise InvalidInput(
                f"actions have shape {taken.shape}; {frames.shape[1]} frames have actions of shape {shape} between them"
            )
        return self._encode(frames[row]), check_actions(self.config.actions, taken[row], between)

    def _begin(self, latents: Tensor, taken: np.ndarray, age: int, seed: int, episode: int) -> WorldState:
        """One world whose history has read latents (T, C, h, w), the first of that age, and the T-1 actions between."""
        latents = latents.to(self.dtype)
        if not torch.isfinite(latents).all():
            raise InvalidState(
                f"world {self.config.name!r} makes numbers that are not finite of what it begins with; load it anew"
            )
        keys = [torch.tensor([v], dtype=torch.int64, device=self.device) for v in (seed, episode, 0)]
        cache = empty_cache(self.dynamics, torch.tensor([age]))
        for t, action in enumerate(torch.as_tensor(taken, device=self.device)):
            past = torch.stack([latents[t], latents[max(t - 1, 0)]])[None]
            drawn_from = step_noise(self.dynamics, keys[0], keys[1], keys[2] + t)
            look_back(self.dynamics, self.config.sampling, past, action[None], cache, drawn_from.context)
        past = torch.stack([latents[-1], latents[max(len(latents) - 2, 0)]])[None]
        return WorldState(past, cache, keys[0], keys[1], keys[2] + len(taken))

    # -- stepping -----------------------------------------------------------------------------------------------

    def step(
        self, state: WorldState, actions: np.ndarray, *, pictures: Pictures = "all"
    ) -> tuple[WorldState, WorldStep]:
        """Advance every world by one action, (B,) int64 or (B, A) float32.

        `pictures` says what is decoded: "all" with those between the last frame and the new one, only the new
        "frame", or "none". Nothing else depends on it; the frame itself is the same to the bit wherever the kernels
        of a convolution compute a picture alike in batches of any size, as those tested here do.
        The given state's memory is reused for the new one: keep a `worldsim.tree.clone` to come back to it.
        Raises InvalidAction, with the state as it was, and InvalidState for a state that was stepped before.
        """
        return finish(self.stages(state, actions, pictures=pictures))

    @isolated
    def stages(self, state: WorldState, actions: np.ndarray, *, pictures: Pictures = "all") -> Stages:
        """`step` in stages: yields the name of each one before it begins, and returns what `step` does.

        Whoever does not want the step any more leaves it there; the state's memory is spent all the same.
        """
        refuse_if_forked()
        check_step(state, pictures)
        taken = torch.as_tensor(check_actions(self.config.actions, actions, len(state.time)), device=self.device)
        drawn_from = step_noise(self.dynamics, state.seed, state.episode, state.time)
        yield "history"
        seen = self.engine.look_back(state.past, taken, state.cache, drawn_from.context)
        yield "drawing"
        drawn = self.engine.draw(state.past, seen, drawn_from)
        latents = drawn.latents.unflatten(1, (-1, self.config.tokenizer.channels))  # (B, 1 + between, C, h, w)
        result = self.outcome(state, latents, drawn.reward, drawn.end_logit)
        past = torch.stack([latents[:, 0], state.past[:, 0]], dim=1)
        new = WorldState(past, state.cache, state.seed, state.episode, state.time + 1)
        yield "decoding"
        return new, self._with_frames(result, latents, pictures)

    def rewind(self, state: WorldState) -> None:
        """Take `state`, the last one that was stepped, for the current one again: that step counts as not taken.

        Whoever was interrupted before they had the step's result can take it once more, or another one. A step
        overwrites only what has left the context by then, so nothing is lost; what had been made of it is void.
        """
        state.cache.time = state.time.clone()

    def _with_frames(self, result: WorldStep, latents: Tensor, pictures: Pictures) -> WorldStep:
        """The result with the frames that are asked for, decoded from latents (B, 1 + between, C, h, w)."""
        if pictures == "none":
            return result
        # In one call: on a CPU two frames take hardly longer than one.
        decoded, finite = self.decode(latents if pictures == "all" else latents[:, :1])
        extras = {**result.extras, "non_finite": result.extras["non_finite"] | ~finite}
        if decoded.shape[1] > 1:
            extras["between"] = decoded[:, 1:].copy()
        return dataclasses.replace(result, frame=decoded[:, 0].copy(), extras=extras)

    def outcome(self, state: WorldState, latents: Tensor, reward: Tensor, end_logit: Tensor) -> WorldStep:
        """What the step after `state` leads to, from what was drawn (B, ..., C, h, w) and said; without pictures."""
        finite = torch.isfinite(latents).flatten(1).all(1) & torch.isfinite(reward + end_logit)
        ending = self.config.endings.chance(end_logit).cpu().numpy()
        keys = (state.seed.tolist(), state.episode.tolist(), state.time.tolist())
        return WorldStep(
            frame=np.empty((len(latents), 0, 0, 3), np.uint8),
            reward=(reward * self.config.reward_scale).float().cpu().numpy(),
            terminated=noise.uniform(*keys, noise.STREAM_END, ()) < ending,
            extras={"non_finite": ~finite.cpu().numpy(), "termination_probability": ending},
        )

    @isolated
    def render(self, state: WorldState) -> np.ndarray:
        """The current frames, (B, H, W, 3) uint8. Raises InvalidState where they are not finite."""
        decoded, finite = self.decode(state.past[:, :1])
        if not finite.all():
            raise InvalidState(
                f"world {self.config.name!r} decodes numbers that are not finite; reset, or load the world anew"
            )
        return decoded[:, 0]

    def latents(self, state: WorldState) -> np.ndarray:
        """What the current frames are decoded from, (B, C, h, w) float32."""
        return state.past[:, 0].float().cpu().numpy().copy()

    @isolated
    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Latents of pictures (B, H, W, 3) uint8, as `latents` gives those of a dream: (B, C, h, w) float32."""
        frames = _array("frames", frames)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != self._picture_shape:
            raise InvalidInput(
                f"frames have shape {frames.shape} and type {frames.dtype}; {self.config.name} wants uint8 "
                f"(B, {', '.join(map(str, self._picture_shape))})"
            )
        return self._encode(frames).float().cpu().numpy().copy()

    @property
    def _picture_shape(self) -> tuple[int, int, int]:
        return self.config.tokenizer.height, self.config.tokenizer.width, 3

    def _encode(self, frames: np.ndarray) -> Tensor:
        pictures = to_pictures(torch.from_numpy(np.ascontiguousarray(frames)).to(self.device)).to(self.dtype)
        return self.tokenizer.encode(pictures.contiguous(memory_format=torch.channels_last))

    def decode(self, latents: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Frames (B, K, H, W, 3) uint8 of latents (B, K, C, h, w), and whether all numbers were finite, (B,) bool."""
        flat = latents.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        decoded = self.tokenizer.decode(flat)
        finite = torch.isfinite(decoded.flatten(1).sum(1)).view(latents.shape[:2]).all(1)
        frames = to_frames(decoded).cpu().numpy().reshape(*latents.shape[:2], *self._picture_shape)
        return frames, finite.cpu().numpy()


def check_step(state: WorldState, pictures: Pictures) -> None:
    """Raise InvalidInput for pictures that no step has, InvalidState for a state that was stepped already."""
    if pictures not in get_args(Pictures):
        raise InvalidInput(f"pictures is {pictures!r}; pass one of {', '.join(map(repr, get_args(Pictures)))}")
    if not torch.equal(state.time, state.cache.time):
        raise InvalidState("this state was stepped already and its memory reused; step a worldsim.tree.clone of it")


def _spec(config: WorldConfig, starts: Starts) -> WorldSpec:
    return WorldSpec(
        name=config.name,
        height=config.tokenizer.height,
        width=config.tokenizer.width,
        actions=config.actions,
        steps_per_second=config.source.fps,
        pictures_per_step=1 + config.dynamics.between,
        max_episode_steps=config.source.max_episode_steps,
        pixel_aspect=config.source.pixel_aspect,
        weights=config.sha256.get(MODEL, "")[:16],
        latent_shape=(config.tokenizer.channels, config.tokenizer.latent_height, config.tokenizer.latent_width),
        starts=starts.kinds,
        ages=True,
    )


def _integers(name: str, values: Sequence[int]) -> list[int]:
    """Plain integers that fit the state; anything else is no seed, not even if it could be rounded to one."""
    for value in values:
        number = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not number or not -(2**63) <= value < 2**63:
            raise InvalidInput(f"{name} {value!r} is no 64-bit integer; give one for each world, each with its seed")
    return [int(value) for value in values]


def _folded(seeds: Sequence[int]) -> list[int]:
    """The seeds, those of more than 63 bits folded; what is no integer as it is."""
    integer = (int, np.integer)
    return [noise.fold_seed(int(s)) if isinstance(s, integer) and not isinstance(s, bool) else s for s in seeds]


def _ages(values: Sequence[int] | None, count: int) -> list[int]:
    ages = [0] * count if values is None else _integers("age", values)
    if len(ages) != count or min(ages, default=0) < 0:
        raise InvalidInput(f"ages are {ages}; give one of 0 or more for each of the {count} worlds, in steps")
    return ages


def _array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InvalidInput(
            f"{name} are no array ({error}); give a numpy array with the worlds as first axis"
        ) from error


def _stack(states: list[WorldState]) -> WorldState:
    """One batch of many single worlds."""
    if len(states) == 1:
        return states[0]
    from worldsim.tree import select_rows

    batch = select_rows(states[0], [0] * len(states))
    for row, state in enumerate(states):
        put_rows(batch, [row], state)
    return batch
