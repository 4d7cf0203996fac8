"""Getting hold of a world and calling it: by name, without gradients, its answers held to its spec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch

from worldsim.envs.starts import Start
from worldsim.errors import InvalidInput, InvalidState, MissingDependency
from worldsim.spec import ActionSpec, WorldProtocol, WorldSpec, WorldStep

TimeLimit = int | Literal["world"] | None


def load_world(world: str | WorldProtocol, device: str = "auto") -> WorldProtocol:
    """The world itself, or the one of that name (shipped, local folder, or hub id) loaded onto `device`."""
    if isinstance(world, str):
        from worldsim.world import World  # here, so that a user's own world needs none of the shipped models

        return World.from_pretrained(world, device=device)
    if not isinstance(world, WorldProtocol):
        kind = type(world).__name__
        raise InvalidInput(f"a {kind} is no world; pass a name, or an object with spec, reset, step and render")
    if device != "auto":
        raise InvalidInput(f"device={device!r} applies only to a world given by name; move your world there yourself")
    return world


def time_limit(spec: WorldSpec, max_episode_steps: TimeLimit) -> int | None:
    """Steps after which an episode is truncated; "world" stands for the recorded game's own limit."""
    if max_episode_steps == "world":
        return spec.max_episode_steps
    is_count = isinstance(max_episode_steps, int | np.integer) and not isinstance(max_episode_steps, bool)
    if max_episode_steps is not None and not (is_count and int(max_episode_steps) > 0):
        raise InvalidInput(f"max_episode_steps={max_episode_steps!r}; pass a number above 0, None or 'world'")
    return None if max_episode_steps is None else int(max_episode_steps)


def picture_space(spec: WorldSpec) -> gym.spaces.Box:
    """The space of one picture: (H, W, 3) uint8."""
    return gym.spaces.Box(0, 255, (spec.height, spec.width, 3), np.uint8)


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
    return {tuple(sorted(codes[k] for k in keys)): action for action, keys in enumerate(spec.keys) if keys}


@torch.no_grad()
def reset_world(world: WorldProtocol, seed: int, episode: int, start: Start | None) -> tuple[Any, np.ndarray]:
    """The state (batch of one) and picture (H, W, 3) uint8 that an episode begins with."""
    if start is None:
        state = world.reset([seed], episode=[episode])
    else:
        frames, actions = start.frames[None], start.actions[None]
        state = world.reset([seed], episode=[episode], frames=frames, actions=actions)
    return state, render_world(world, state, 1)[0]


@torch.no_grad()
def step_world(world: WorldProtocol, state: Any, actions: np.ndarray) -> tuple[Any, WorldStep]:
    """`world.step`, with the shapes of its answer checked: a wrong one would surface far from here."""
    state, result = world.step(state, actions)
    rows = len(actions)
    _check_pictures(world.spec, "frame", result.frame, rows)
    for name in ("reward", "terminated"):
        shape = np.shape(getattr(result, name))
        if shape != (rows,):
            raise InvalidInput(f"world {world.spec.name!r} gave {name} of shape {shape}; return ({rows},)")
    return state, result


@torch.no_grad()
def render_world(world: WorldProtocol, state: Any, rows: int) -> np.ndarray:
    """The current pictures of a batch of `rows` worlds, (rows, H, W, 3) uint8."""
    pictures = world.render(state)
    _check_pictures(world.spec, "pictures", pictures, rows)
    return pictures


def _check_pictures(spec: WorldSpec, name: str, pictures: np.ndarray, rows: int) -> None:
    shape, dtype = np.shape(pictures), getattr(pictures, "dtype", type(pictures).__name__)
    want = (rows, spec.height, spec.width, 3)
    if shape != want or dtype != np.uint8:
        raise InvalidInput(f"world {spec.name!r} gave {name} {dtype} {shape}; return numpy uint8 {want}")
