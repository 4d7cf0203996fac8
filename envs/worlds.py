"""Getting hold of a world and calling it: by name, without gradients, its answers held to its spec."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

from worldsim.envs.starts import Start
from worldsim.errors import InvalidInput, InvalidState, MissingDependency
from worldsim.rollout import check_frames
from worldsim.spec import ActionSpec, WorldProtocol, WorldSpec
from worldsim.speculation import SpeculationStats, Speculator

TimeLimit = int | Literal["world"] | None
DEFAULT_START = "beginning"


class ServesWorld:
    """What an environment and a batch of them say of the world that they serve."""

    world: WorldProtocol
    max_episode_steps: int | None
    ahead: Speculator
    _env_spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """What gymnasium made this environment from, with the time limit that applies; None where it did not."""
        return self._env_spec

    @spec.setter
    def spec(self, value: EnvSpec | None) -> None:
        self._env_spec = limited(value, self.max_episode_steps)

    @property
    def speculation_stats(self) -> SpeculationStats | None:
        """What came of the guesses so far, kept up to date; None without `speculate`."""
        return self.ahead.stats

    def get_action_meanings(self) -> list[str]:
        """What each discrete action does, as in ALE; empty when the world does not say."""
        return action_meanings(self.world.spec.actions)

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """Pygame key codes held down -> action, for `gymnasium.utils.play`."""
        return keys_to_action(self.world.spec.actions)


def load_world(
    world: str | WorldProtocol,
    device: str = "auto",
    *,
    start: str = "beginning",
    temperature: float | None = None,
    compiled_for: int = 0,
    audio: bool = False,
) -> WorldProtocol:
    """The world itself, or the one of that name (shipped, local folder, or hub id) loaded onto `device`.

    Raises InvalidInput if it cannot begin where `start` says, be drawn at another `temperature`, be compiled for a
    number of worlds, 0 for as it is, or make sound, where `audio` asks for it.
    """
    if isinstance(world, str):
        from worldsim.world import World  # here, so that a user's own world needs none of the shipped models

        world = World.from_pretrained(world, device=device)
    elif not isinstance(world, WorldProtocol):
        kind = type(world).__name__
        raise InvalidInput(f"a {kind} is no world; pass a name, or an object with spec, reset, step and render")
    elif device != "auto":
        raise InvalidInput(f"device={device!r} applies only to a world given by name; move your world there yourself")
    if start != DEFAULT_START and start not in world.spec.starts:
        known = ", ".join(map(repr, world.spec.starts or (DEFAULT_START,)))
        raise InvalidInput(f"world {world.spec.name!r} offers no start {start!r}; it offers {known}")
    if temperature is not None:
        sampling, with_sampling = (getattr(world, name, None) for name in ("sampling", "with_sampling"))
        if sampling is None or with_sampling is None:
            raise InvalidInput(f"world {world.spec.name!r} has no temperature; leave temperature out")
        world = cast(WorldProtocol, with_sampling(dataclasses.replace(sampling, temperature=temperature)))
    if audio and world.spec.audio is None:
        with_audio = getattr(world, "with_audio", None)
        if with_audio is None:
            raise InvalidInput(f"world {world.spec.name!r} has no sound; leave out audio=True")
        world = cast(WorldProtocol, with_audio())
    if compiled_for:
        compile_it = getattr(world, "compiled", None)
        if compile_it is None:
            raise InvalidInput(f"a {type(world).__name__} cannot be compiled; leave compiled out")
        world = compile_it(compiled_for)
    return cast(WorldProtocol, world)


def time_limit(spec: WorldSpec, max_episode_steps: TimeLimit) -> int | None:
    """Steps after which an episode is truncated; "world" stands for the recorded game's own limit."""
    if max_episode_steps == "world":
        return spec.max_episode_steps
    is_count = isinstance(max_episode_steps, int | np.integer) and not isinstance(max_episode_steps, bool)
    if max_episode_steps is not None and not (is_count and int(max_episode_steps) > 0):
        raise InvalidInput(f"max_episode_steps={max_episode_steps!r}; pass a number above 0, None or 'world'")
    return None if max_episode_steps is None else int(max_episode_steps)


def limited(env_spec: EnvSpec | None, limit: int | None) -> EnvSpec | None:
    """Gymnasium's spec of an environment that keeps this time limit itself, for those who ask the spec for it."""
    return None if env_spec is None else dataclasses.replace(env_spec, max_episode_steps=limit)


def render_fps(spec: WorldSpec) -> int:
    """Steps shown a second, as an integer: what gymnasium wants in `metadata`."""
    return max(1, round(spec.steps_per_second))


def check_render_mode(render_mode: str | None, known: Sequence[str]) -> str | None:
    """The render mode, if it is one of the known ones; raises InvalidInput."""
    if render_mode is not None and render_mode not in known:
        raise InvalidInput(f"render_mode={render_mode!r}; pass one of {', '.join(map(repr, known))} or None")
    return render_mode


def action_meanings(spec: ActionSpec) -> list[str]:
    """What each discrete action does, as in ALE; empty when the world does not say."""
    return list(spec.meanings)


def keys_to_action(spec: ActionSpec) -> dict[tuple[int, ...], int]:
    """Pygame key codes held down -> action, for `gymnasium.utils.play`; the action of no key is left out."""
    if not any(spec.keys):
        raise InvalidState("this world names no keys for its actions; pass keys_to_action to play() yourself")
    try:
        import pygame
    except ImportError as error:
        raise MissingDependency('key codes need pygame; run pip install "worldsim[play]"') from error
    codes = {name: getattr(pygame, f"K_{name if len(name) == 1 else name.upper()}") for k in spec.keys for name in k}
    return {tuple(sorted(codes[k] for k in keys)): action for action, keys in enumerate(spec.keys, spec.start) if keys}


@torch.no_grad()
def reset_world(world: WorldProtocol, seed: int, episode: int, start: Start | None, kind: str = DEFAULT_START) -> Any:
    """The state (batch of one) that an episode begins with: from frames, or from a recorded start of this kind."""
    options: dict[str, Any] = {} if kind == DEFAULT_START else {"start": kind}
    if start is not None:
        options = {"frames": start.frames[None], "actions": start.actions[None]}
        options |= {"age": [start.age]} if start.age else {}
        if start.streams:
            options["streams"] = {name: values[None] for name, values in start.streams.items()}
    return world.reset([seed], episode=[episode], **options)


@torch.no_grad()
def render_world(world: WorldProtocol, state: Any, rows: int) -> np.ndarray:
    """The current frames of a batch of `rows` worlds, (rows, H, W, 3) uint8."""
    frames = world.render(state)
    check_frames(world.spec, "frames", frames, rows)
    return frames
