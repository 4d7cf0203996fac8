"""The smallest robot: a hand in a plane, two tasks, success where the hand is at the goal. Frames are 16x32."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_training import PATCH, brief, fixed_tokenizer, narrow, train

from worldsim.cli.record import record_episodes
from worldsim.data.episodes import Episodes
from worldsim.data.latents import cache_latents
from worldsim.envs.sources import SourceSpec, TimeStep, register_source
from worldsim.spec import ActionSpec, StreamSpec
from worldsim.train import dynamics_task, export
from worldsim.train.dynamics_task import DynamicsTask, modules_of
from worldsim.train.state_first import learn_numbers

NEAR, REACH = 0.25, 0.3
PLACE = StreamSpec("vector", (2,), "float32", low=(-1.0,), high=(1.0,))
STREAMS = ("proprio", "goal", "task", "success")


class PointRobot:
    """Moves a hand by an action (2,); the goal is on the left or on the right, as the task says."""

    def __init__(self, *, frame_skip: int = 1, render: bool = True) -> None:
        self.spec = SourceSpec(
            "point-robot", 16, 32, ActionSpec(low=(-1.0, -1.0), high=(1.0, 1.0)), fps=10.0, max_episode_steps=12,
            extras={
                "proprio": PLACE, "goal": PLACE, "task": StreamSpec("token", (), "int64", names=("left", "right")),
                "success": StreamSpec("token", (), "bool", names=("not yet", "done")),
            },
        )  # fmt: skip
        self.task: str | None = None

    def choose_task(self, task: str | None) -> None:
        self.task = task

    def reset(self, seed: int) -> TimeStep:
        rng = np.random.default_rng(seed)
        names = self.spec.extras["task"].names
        self._number = names.index(self.task) if self.task else int(rng.integers(2))
        self._hand = rng.uniform(-0.3, 0.3, 2)
        self._goal = np.array([(-0.8, 0.8)[self._number], rng.uniform(-0.8, 0.8)])
        self._steps = 0
        return self._row()

    def step(self, action: Any) -> TimeStep:
        self._hand = np.clip(self._hand + REACH * np.asarray(action), -1, 1)
        self._steps += 1
        return self._row()

    def _row(self) -> TimeStep:
        far = float(np.linalg.norm(self._hand - self._goal))
        extras = {
            "proprio": self._hand.astype(np.float32), "goal": self._goal.astype(np.float32),
            "task": np.asarray(self._number), "success": np.asarray(far < NEAR),
        }  # fmt: skip
        return TimeStep(self.render(), -far if self._steps else 0.0, False, self._steps == 12, extras)

    def render(self) -> np.ndarray:
        frame = np.zeros((16, 32, 3), np.uint8)
        for place, channel in ((self._goal, 1), (self._hand, 0)):
            x, y = ((place + 1) / 2 * (31, 15)).astype(int)
            frame[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2, channel] = 255
        return frame

    def close(self) -> None:
        pass


class Chaser:
    """A data policy that goes to the goal at a share of the full speed, by default another one each episode."""

    needs: frozenset[str] = frozenset()

    def __init__(self, spec: SourceSpec, speed: float | None = None) -> None:
        self._given = speed

    def reset(self, rng: np.random.Generator) -> None:
        self._speed = rng.uniform(-0.5, 1) if self._given is None else self._given
        self._rng = rng

    def act(self, row: TimeStep) -> np.ndarray:
        way = row.extras["goal"] - row.extras["proprio"]
        noise = 0.0 if self._given is not None else 0.3 * self._rng.standard_normal(2)
        return np.clip(self._speed * np.clip(way / REACH, -1, 1) + noise, -1, 1).astype(np.float32)


register_source("point-robot", PointRobot, policies={"chaser": Chaser}, mix=("chaser", "random"))


def recorded(folder: Path, steps: int = 800, seed: int = 0) -> Episodes:
    record_episodes("point-robot", {}, steps=steps, out=folder, seed=seed)
    return Episodes.open(folder)


def dynamics_task_of(store: Episodes, run: Path, **options: Any) -> DynamicsTask:
    clips = [cache_latents(fixed_tokenizer(), store, run, "cpu", streams=STREAMS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamics_task, "DynamicsConfig", functools.partial(narrow, dim=16, history_blocks=1))
        modules = (
            modules_of(clips, ("proprio",), options.get("action_tokens", 0)) | {"foreseen": ("proprio",)} | options
        )
        return DynamicsTask(clips, fixed_tokenizer(), batch=8, clip=8, patch=PATCH, **modules)


def trained_world(folder: Path, steps: int = 250) -> Path:
    """The folder of a world that has learned for a few seconds where the hand goes and when it is there."""
    store = recorded(folder / "data")
    task = dynamics_task_of(store, folder / "run")
    learn_numbers(task.model.dynamics, task._clips.stores, seconds=1, steps=steps, longest=2)
    train(task, brief(1), folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "load_tokenizer", lambda run: fixed_tokenizer())
        export.export_world("point-robot", [store], folder / "run", folder / "world", starts=16)
    return folder / "world"
