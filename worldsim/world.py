"""World: a trained model with its config, stepped over an explicit state."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from worldsim import rollout
from worldsim.actions import check_actions
from worldsim.config import WorldConfig
from worldsim.errors import InvalidInput, InvalidState
from worldsim.io.folders import AUDIO, MODEL, find_world
from worldsim.io.starts import Starts
from worldsim.io.weights import WorldFiles, load_strictly, read_world, write_world
from worldsim.memory.base import Codec, FromAbove, PlacesMemory
from worldsim.models.audio import AudioHead
from worldsim.models.dynamics import Dynamics
from worldsim.models.registry import Scale
from worldsim.models.tokenizer import Tokenizer, to_frames, to_images
from worldsim.rollout import Decode, Keys, StepOutput, WorldState, advance, finish
from worldsim.runtime.ambient import isolated, new_weights, refuse_if_forked
from worldsim.runtime.devices import autocast_dtype, choose_device
from worldsim.sampling import noise
from worldsim.sampling.sampler import Eager, Engine, SamplingConfig
from worldsim.spec import Decoding, Stages, StreamSpec, WorldSpec, WorldStep
from worldsim.state.given import as_array, check_ages, check_frames, check_seeds, check_streams
from worldsim.state.tree import put_rows, select_rows

AUDIO_HEAD = "audio"  # its part of the state, and the extra of a step


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
        self._audio: AudioHead | None = None  # made by `with_audio`
        modules: dict[str, torch.nn.Module] = {"tokenizer.": self.tokenizer, "dynamics.": self.dynamics}
        load_strictly(modules, files.model, where)
        for module in modules.values():
            module.to(self.device, self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            module.eval().requires_grad_(False)
        if self.dynamics.memories is not None:
            self.dynamics.memories.bind(Codec(self.tokenizer.encode, self.tokenizer.decode))
        self.engine: Engine = Eager(self.dynamics, self.config.sampling)
        self.starts = Starts.from_tensors(files.starts)
        sizes = self.config.dynamics
        grid, read_off = (sizes.channels, sizes.height, sizes.width), self.dynamics.heads.streams_read_off
        self.starts.check(grid, self.config.actions, sizes.streams, read_off)
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

    def with_memories(self, *names: str) -> World:
        """This world with only these of its memories: the others are neither read nor written. Starts stay as they are.

        States of the one do not fit the other. Raises InvalidInput for a memory that the world does not have.
        """
        sizes = self.config.dynamics
        if absent := [name for name in names if name not in sizes.memories]:
            raise InvalidInput(f"world {self.config.name!r} has no memory {absent[0]!r}; name some of {sizes.memories}")
        gone = [name for name in sizes.memories if name not in names]
        options = {name: one for name, one in sizes.options.items() if name not in gone}
        dynamics = dataclasses.replace(sizes, memories=names, options=options)
        config = dataclasses.replace(self.config, dynamics=dynamics)
        dropped = tuple(f"dynamics.memories.{part}.{name}." for part in ("each", "entries") for name in gone)
        model = {name: weight for name, weight in self._files.model.items() if not name.startswith(dropped)}
        other = World(dataclasses.replace(self._files, config=config, model=model), device=str(self.device))
        other.spec = dataclasses.replace(other.spec, weights="+".join([self.spec.weights, *names]))
        return other

    def with_audio(self) -> World:
        """This world with its sound: every step's extras have "audio", (B, samples, channels) int16.

        Frames, rewards and endings are the same to the bit. `config.audio.codec` has the sound's `rate` in Hz, its
        `samples` a step and `channels`, `spec.audio` the same as a `StreamSpec`. Raises InvalidInput for a world that
        has no sound.
        """
        c = self.config.audio
        if c is None:
            raise InvalidInput(
                f"world {self.config.name!r} has no sound; leave out audio=True, or train it with "
                "`worldsim train audio` (docs/sound.md)"
            )
        other = copy.copy(self)
        if other._audio is None:
            with new_weights():
                head = AudioHead(c, self.config.dynamics)
            load_strictly({"": head}, {name: t.float() for name, t in self._files.audio.items()}, "its sound")
            other._audio = head.to(self.device).eval().requires_grad_(False)
        other.engine = self.engine.with_heads({AUDIO_HEAD: other._audio})
        sound = StreamSpec("audio", (c.codec.samples, c.codec.channels), "int16", per_step=c.codec.samples)
        weights = f"{self.spec.weights}+{self.config.sha256.get(AUDIO, '')[:8]}"
        other.spec = dataclasses.replace(self.spec, audio=sound, weights=weights)
        return other

    def compiled(self, *numbers: int) -> World:
        """This world, its steps compiled to machine code: the same weights and sampling, faster steps.

        Compiles now for these numbers of worlds B that are stepped together, and at the first step for any other. That
        takes half a minute or more for each, and is kept on disk (`worldsim.runtime.compiled`). Rounding differs, so a
        seed gives other bytes than uncompiled, as on another device; for itself it is reproducible, and all that is
        promised of states holds. Raises MissingDependency where there is no C++ compiler, InvalidInput where what it
        makes cannot be kept.
        """
        from worldsim.runtime.compiled import Compiled  # here: most worlds need no compiler

        other = copy.copy(self)
        other.engine = Compiled(self.dynamics, self.config.sampling, self.engine.carried)
        for number in numbers:
            other.step(other.reset(range(number)), self.config.actions.lowest(number), decode="none")
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
        streams: Mapping[str, np.ndarray] | None = None,
        start: str = "beginning",
    ) -> WorldState:
        """Start B = len(seed) worlds.

        Each begins from a recorded start that its seed chooses: the `beginning` of an episode, or `anywhere` in one.
        Or give frames of your own: `frames` (B, T, H, W, 3) uint8, T >= 1, and the T-1 `actions` between them,
        (B, T-1) or (B, T-1, A), and, where the first of them is not the beginning of an episode, its `age` (B,) in
        steps since then: a world knows how late it is. `streams` (B, T, ...) are what other sensors of the world's
        spec gave with these frames, by default what the world reads off the frames or foresees after the first one,
        of which it is taken to be what they give in the mean. `episode` (default 0) tells apart the
        resets of one seed. Seeds of 2**63 or more are taken as `noise.fold_seed` folds them.
        Raises InvalidInput for seeds that are no integers, for frames of another size or type and for ages
        below 0, InvalidAction for actions that are not the world's, InvalidState where weights make numbers that are
        not finite.
        """
        refuse_if_forked()
        seeds, episodes = check_seeds(seed, episode)
        if frames is None and not (actions is age is streams is None):
            raise InvalidInput("reset got actions, an age or streams without frames; give the frames they belong to")
        ages, batch = check_ages(age, len(seeds)), len(seeds)
        if frames is not None:
            frames, played = check_frames(frames, actions, self.config, batch)
            felt = check_streams(streams or {}, self.spec.streams, self.config.name, batch, frames.shape[1])
        # One world at a time, so that a start does not depend on what else starts in the same call.
        states = []
        for row, (s, e) in enumerate(zip(seeds, episodes, strict=True)):
            if frames is None:
                past, taken, began, others = self.starts.choose(s, e, start)
            else:
                past, taken, began = self._encode(frames[row]), played[row], ages[row]
                others = self.usual_streams(1) | {name: torch.from_numpy(of[row]) for name, of in felt.items()}
            states.append(self._begin(past.to(self.device), taken, began, s, e, others))
        return _stack(states)

    def usual_streams(self, batch: int) -> dict[str, Tensor]:
        """What the streams of `batch` worlds are taken to be where nothing is known of them, (B, ...).

        Without those that heads read off a frame.
        """
        usual = {}
        for name, spec in self.spec.streams.items():
            if name in self.dynamics.heads.streams_read_off:
                continue
            mean = self.config.dynamics.scales.get(name, Scale()).mean or (0.0,) * math.prod(spec.shape)
            one = np.clip(np.array(mean).reshape(spec.shape), *spec.bounds()).astype(spec.dtype)
            usual[name] = torch.as_tensor(np.repeat(one[None], batch, axis=0), device=self.device)
        return usual

    def _begin(
        self, latents: Tensor, taken: np.ndarray, age: int, seed: int, episode: int, streams: Mapping[str, Tensor]
    ) -> WorldState:
        """One world whose history has read latents (T, C, h, w), the first of that age, and the T-1 actions between."""
        kinds = {True: torch.float32, False: torch.int64}
        streams = {name: v.to(self.device, kinds[v.is_floating_point()]) for name, v in streams.items()}
        latents = latents.to(self.dtype)
        if not torch.isfinite(latents).all():
            raise InvalidState(
                f"world {self.config.name!r} makes numbers that are not finite of what it begins with; load it anew"
            )
        actions = torch.as_tensor(taken)[None]  # (1, T - 1, ...)
        known = {name: values[None] for name, values in streams.items()}  # (1, T, ...), or (1, 1, ...)
        return rollout.start(
            self.engine.eager, latents[None], actions, ages=[age], seeds=[seed], episodes=[episode], streams=known
        )

    # -- stepping -----------------------------------------------------------------------------------------------

    def step(self, state: WorldState, actions: np.ndarray, *, decode: Decoding = "all") -> tuple[WorldState, WorldStep]:
        """Advance every world by one action, (B,) int64 or (B, A) float32.

        `decode` says what is decoded: "all" with those between the last frame and the new one, only the new
        "frame", or "none". Nothing else depends on it; the frame itself is the same to the bit wherever the kernels
        of a convolution compute a frame alike in batches of any size, as those tested here do.
        The given state's memory is reused for the new one: keep a `worldsim.state.tree.clone` to come back to it.
        Raises InvalidAction, with the state as it was, and InvalidState for a state that was stepped before.
        """
        return finish(self.stages(state, actions, decode=decode))

    def stages(self, state: WorldState, actions: np.ndarray, *, decode: Decoding = "all") -> Stages:
        """`step` in stages: yields the name of each one before it begins, and returns what `step` does.

        Whoever does not want the step any more leaves it there; the state's memory is spent all the same.
        """
        decoder = self._decoder(decode)
        taken = check_actions(self.config.actions, actions, len(state.keys.time))
        advancing = advance(self.engine, state, torch.as_tensor(taken, device=self.device), decode=decoder)
        new, output = yield from advancing
        result = self.result(state.keys, output)
        result = self._with_streams(result, new) if output.streams else result
        return new, _with_audio(result, output) if output.said else result

    def rewind(self, state: WorldState) -> None:
        """Take `state`, the last one that was stepped, for the current one again: that step counts as not taken.

        Whoever was interrupted before they had the step's result can take it once more, or another one.
        """
        rollout.rewind(state)

    def _decoder(self, decode: Decoding) -> Decode | None:
        """What decodes the frames that are asked for, from latents (B, 1 + between, C, h, w)."""
        if decode not in get_args(Decoding):
            raise InvalidInput(f"decode is {decode!r}; pass one of {', '.join(map(repr, get_args(Decoding)))}")
        if decode == "none":
            return None
        # In one call: on a CPU two frames take hardly longer than one.
        return self.decode if decode == "all" else lambda latents: self.decode(latents[:, :1])

    @isolated
    def result(self, keys: Keys, output: StepOutput) -> WorldStep:
        """A step from the state with these keys, in the world's units: rewards, whether it ended, the frames if any."""
        finite = torch.isfinite(output.latents).flatten(1).all(1) & torch.isfinite(output.reward + output.end_logit)
        sound = finite.cpu().numpy()
        ending = self.config.endings.chance(output.end_logit).cpu().numpy()
        drawn = noise.uniform(keys.seed.tolist(), keys.episode.tolist(), keys.time.tolist(), noise.STREAM_END, ())
        extras = {"non_finite": ~sound, "termination_probability": ending}
        frame = np.empty((len(sound), 0, 0, 3), np.uint8)
        if output.frames is not None:
            frames, sound_frames = output.frames
            frame, extras["non_finite"] = frames[:, 0].copy(), ~(sound & sound_frames)
            if frames.shape[1] > 1:
                extras["between"] = frames[:, 1:].copy()
        reward = self.config.rewards.paid(output.reward * self.config.reward_scale).float().cpu().numpy()
        return WorldStep(frame, reward, drawn < ending, extras)

    def _with_streams(self, result: WorldStep, state: WorldState) -> WorldStep:
        """The result with what the other sensors give at the state that it led to."""
        finite = [
            torch.isfinite(state.heads[name]).reshape(len(state.heads[name]), -1).all(1).cpu().numpy()
            for name in self.spec.streams
        ]
        broken = result.extras["non_finite"] | ~np.logical_and.reduce(finite)
        return dataclasses.replace(result, extras={**self.streams(state), **result.extras, "non_finite": broken})

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

    def from_above(self, state: WorldState, row: int = 0) -> FromAbove | None:
        """What one world of the batch remembers of places, seen from above; None without a memory of these."""
        if self.dynamics.memories is None:
            return None
        for name, memory in self.dynamics.memories.each.items():
            if isinstance(memory, PlacesMemory):
                return memory.from_above(state.memory[name], state.heads, row)
        return None

    def streams(self, state: WorldState) -> dict[str, np.ndarray]:
        """What the world's other sensors give at the current frames, (B, ...) each; what is not finite is set to 0."""
        shown = {}
        for name, spec in self.spec.streams.items():
            values = np.nan_to_num(state.heads[name].cpu().numpy(), copy=True)
            shown[name] = np.clip(values, *spec.bounds()).astype(spec.dtype)
        return shown

    @isolated
    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Latents of frames (B, H, W, 3) uint8, as `latents` gives those of a dream: (B, C, h, w) float32."""
        frames = as_array("frames", frames)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != self._frame_shape:
            raise InvalidInput(
                f"frames have shape {frames.shape} and type {frames.dtype}; {self.config.name} wants uint8 "
                f"(B, {', '.join(map(str, self._frame_shape))})"
            )
        return self._encode(frames).float().cpu().numpy().copy()

    @property
    def _frame_shape(self) -> tuple[int, int, int]:
        return self.config.tokenizer.height, self.config.tokenizer.width, 3

    def _encode(self, frames: np.ndarray) -> Tensor:
        images = to_images(torch.from_numpy(np.ascontiguousarray(frames)).to(self.device)).to(self.dtype)
        return self.tokenizer.encode(images.contiguous(memory_format=torch.channels_last))

    def decode(self, latents: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Frames (B, K, H, W, 3) uint8 of latents (B, K, C, h, w), and whether all numbers were finite, (B,) bool."""
        flat = latents.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        decoded = self.tokenizer.decode(flat)
        finite = torch.isfinite(decoded.flatten(1).sum(1)).view(latents.shape[:2]).all(1)
        frames = to_frames(decoded).cpu().numpy().reshape(*latents.shape[:2], *self._frame_shape)
        return frames, finite.cpu().numpy()


def _with_audio(result: WorldStep, output: StepOutput) -> WorldStep:
    """The result with what heads that carry something say."""
    said = {name: values.cpu().numpy().copy() for name, values in output.said.items()}
    return dataclasses.replace(result, extras={**said, **result.extras})


def _spec(config: WorldConfig, starts: Starts) -> WorldSpec:
    return WorldSpec(
        name=config.name,
        height=config.tokenizer.height,
        width=config.tokenizer.width,
        actions=config.actions,
        steps_per_second=config.source.fps,
        frames_per_step=1 + config.dynamics.between,
        max_episode_steps=config.source.max_episode_steps,
        pixel_aspect=config.source.pixel_aspect,
        weights=config.sha256.get(MODEL, "")[:16],
        latent_shape=(config.tokenizer.channels, config.tokenizer.latent_height, config.tokenizer.latent_width),
        starts=starts.kinds,
        streams=dict(config.dynamics.streams),
        cameras=config.tokenizer.cameras if len(config.tokenizer.cameras) > 1 else (),
        ages=True,
    )


def _stack(states: list[WorldState]) -> WorldState:
    """One batch of many single worlds."""
    if len(states) == 1:
        return states[0]
    batch = select_rows(states[0], [0] * len(states))
    for row, state in enumerate(states):
        put_rows(batch, [row], state)
    return batch
