"""Rollouts of the shipped world with fixed seeds and actions: how they are played, kept and compared.

Only the public interface is used, and all of it in the first functions, so that a renamed argument is one line here.
Everything is computed in fp32, on the CPU, by one thread: what is left to differ between machines is rounding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from worldsim.world import World

REFERENCE = Path(__file__).with_name("reference.npz")
NAME = "doom-take-cover"

# -- the public interface, as it is called now -------------------------------------------------------------------


@contextlib.contextmanager
def comparable() -> Iterator[None]:
    """Compute in fp32 with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with mock.patch.dict(os.environ, {"WORLDSIM_BF16": "0"}):  # read when a world is loaded
            yield
    finally:
        torch.set_num_threads(threads)


def load() -> World:
    """The shipped world; to be called, as all of these, while `comparable` is entered."""
    return World.from_pretrained(NAME, device="cpu")


def begin(world: World, case: Case) -> Any:
    """The state that a case starts from."""
    keys: dict[str, Any] = {"seed": case.seeds, "episode": case.episodes}
    if case.frames is None:
        return world.reset(start=case.start, **keys)
    return world.reset(frames=case.frames, actions=case.before, age=case.ages, **keys)


def advance(world: World, state: Any, actions: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
    """One step of a batch: the new state and what came of it, by the names of `Rollout`."""
    state, step = world.step(state, actions)
    return state, {
        "latents": world.latents(state),
        "frame": step.frame,
        "between": step.extras["between"][:, 0],
        "reward": step.reward,
        "chance": step.extras["termination_probability"],
        "ended": step.terminated,
    }


def with_context_noise(world: World, level: float) -> World:
    """The same weights, sampled with another level of noise on the last frames."""
    return world.with_sampling(dataclasses.replace(world.sampling, context_noise=level))


# -- what is played ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A batch of B worlds and the S actions that each of them takes."""

    seeds: tuple[int, ...]
    actions: np.ndarray  # (S, B) int64
    episodes: tuple[int, ...]
    start: str = "beginning"  # the kind of recorded start, where no frames are given
    frames: np.ndarray | None = None  # (B, T, H, W, 3) uint8, a start from given frames
    before: np.ndarray | None = None  # (B, T - 1) int64, the actions between these
    ages: tuple[int, ...] | None = None  # of the first of these, in steps since the beginning of the episode


# In the long one the player is hit at step 39 (a chance of 0.6, and it is drawn), and more steps are taken than the
# history has slots. The others start at the beginning, late (two are hit at step 9, and one of them ends, to end anew
# at step 12), and from frames that a recording could hold.
LONG, YOUNG, LATE, GIVEN = "long", "young", "late", "given"
KEPT = (1, 8, 16, 32, 48, 64)  # steps whose latents are in the reference
SHOWN = (8, 32, 64)  # steps whose frames are


def cases(given: np.ndarray) -> dict[str, Case]:
    """All cases; `given` (4, H, W, 3) uint8 are the frames that the last one starts from."""
    held = np.random.default_rng(5).integers(0, 3, 16).repeat(4)[:, None]  # actions held for four steps each
    drawn = np.random.default_rng(6).integers(0, 3, (8, 4))
    frames = np.stack([given, given[::-1]])
    before = np.array([[1, 1, 0], [2, 0, 2]])
    return {
        LONG: Case((5,), held, (0,), "anywhere"),
        YOUNG: Case((0, 1, 2, 2), drawn, (0, 1, 0, 3)),
        LATE: Case((10, 11, 14, 27), held[:16].repeat(4, 1), (0, 0, 0, 0), "anywhere"),
        GIVEN: Case((7, 8), drawn[:, :2], (0, 2), frames=frames, before=before, ages=(3, 400)),
    }


Rollout = dict[str, np.ndarray]  # latents (S, B, C, h, w), frame and between (S, B, H, W, 3), the others (S, B)


def play(world: World, case: Case) -> Rollout:
    """Take the actions of a case; a world that has ended goes on, as `World` lets it."""
    state, rows = begin(world, case), []
    for actions in case.actions:
        state, row = advance(world, state, actions)
        rows.append(row)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def change(case: Case, **fields: Any) -> Case:
    """The case with other fields."""
    return dataclasses.replace(case, **fields)


# -- how it is kept and compared ---------------------------------------------------------------------------------


def thinned(rollout: Rollout) -> Rollout:
    """What the reference keeps: latents and frames of some steps, all numbers of all of them."""
    steps = len(rollout["reward"])
    kept, shown = ([s - 1 for s in wanted if s <= steps] for wanted in (KEPT, SHOWN))
    chosen = {"latents": kept, "frame": shown, "between": shown}
    return {name: values[chosen[name]] if name in chosen else values for name, values in rollout.items()}


@dataclass(frozen=True)
class Tolerance:
    """The largest differences, of any world at any step up to `until`, that can be rounding."""

    until: int
    latents: float  # root of the mean square; latents themselves have one of 0.75
    frames: float  # mean absolute difference, in levels of 256
    numbers: float  # of rewards (about 2) and of ending chances (0 to 1), absolute


# Rounding grows along a rollout, and fast once the player was hit, so what is allowed does, too.
TOLERANCES = (
    Tolerance(until=8, latents=1e-4, frames=0.02, numbers=1e-4),
    Tolerance(until=32, latents=2e-3, frames=0.05, numbers=1e-3),
    Tolerance(until=48, latents=5e-3, frames=0.2, numbers=5e-3),
    Tolerance(until=64, latents=1e-1, frames=1.0, numbers=1e-2),
)


def excesses(one: Rollout, other: Rollout) -> dict[str, float]:
    """By how much two rollouts, `thinned` or not, differ, in units of what is allowed; 1 is the most that passes."""
    one, other = (thinned(r) if len(r["latents"]) == len(r["reward"]) else r for r in (one, other))
    steps = np.arange(1, len(one["reward"]) + 1)
    kept, shown = (np.array([s for s in wanted if s <= steps[-1]]) for wanted in (KEPT, SHOWN))
    found = {"latents": _worst(np.sqrt(_mean(np.square(one["latents"] - other["latents"]))), kept, "latents")}
    for name in ("frame", "between"):
        found[name] = _worst(_mean(np.abs(one[name].astype(np.float32) - other[name])), shown, "frames")
    for name in ("reward", "chance"):
        found[name] = _worst(np.abs(one[name] - other[name]), steps, "numbers")
    found["ended"] = float("inf") if (one["ended"] != other["ended"]).any() else 0.0
    return found


def _mean(values: np.ndarray) -> np.ndarray:
    """(S, B, ...) -> (S, B)."""
    return values.reshape(*values.shape[:2], -1).mean(-1)


def _worst(difference: np.ndarray, steps: np.ndarray, field: str) -> float:
    """The largest of differences (S, B) of these steps (S,), over its tolerance."""
    allowed = [next(getattr(t, field) for t in TOLERANCES if step <= t.until) for step in steps]
    return float((difference.max(1) / allowed).max())


def read_reference() -> tuple[np.ndarray, dict[str, Rollout]]:
    """The frames of the start from given frames, and the rollouts by the names of their cases."""
    with np.load(REFERENCE, allow_pickle=False) as stored:
        rollouts: dict[str, Rollout] = {}
        for key in stored.files:
            case, _, name = key.partition(".")
            if name:
                rollouts.setdefault(case, {})[name] = stored[key]
        return stored["given"], rollouts
