"""Training an agent within a budget, in a folder that it can be resumed from, judged at stages on the way."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import ConstantSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from tqdm import tqdm

from worldsim.errors import InvalidInput
from worldsim.io.files import write_json
from worldsim.policies.agent import REWARDS, SUFFIX, Agent, load_agent, reward_scale
from worldsim.policies.evaluate import Score
from worldsim.policies.network import make_ppo, ppo_options
from worldsim.policies.observation import ObservationConfig
from worldsim.train.board import logging_to
from worldsim.world import World

AGENT, CURVE = f"agent{SUFFIX}", "curve.json"
LEAST_RATE = 0.05  # of the learning rate, which falls in a straight line over the budget, is left at its end

Measure = Callable[[Agent], dict[str, Score]]  # an agent's scores, by the name of where it played


class Training:
    """One run of PPO: the agent, the scale of its rewards and its curve, all kept in the folder `out`.

    `envs` are those of `dream_envs` or `real_envs`; `parent` is a saved agent to begin from. Raises InvalidInput if
    `out` holds another agent and `resume` is not set, or if the agent sees something else than `observation`.
    """

    def __init__(
        self,
        envs: VecEnv,
        observation: ObservationConfig,
        world: World,
        name: str,
        out: Path,
        *,
        seed: int = 0,
        resume: bool = False,
        parent: Path | None = None,
        **options: Any,
    ) -> None:
        self.out = out
        found = find_agent(out, resume)
        start = out / AGENT if found else parent
        old = None if start is None else _load(start, observation, world)
        self.points: list[dict[str, Any]] = _read(out / CURVE, "points")[0] if found else []
        chosen = {**ppo_options(observation), **(old.options if old else {}), **options}
        # PPO's value network wants rewards of about its own size, whatever a game pays.
        self.envs = VecNormalize(envs, norm_obs=False, gamma=chosen["gamma"])
        if found:
            mean, var, count = _read(out / REWARDS, "mean", "var", "count")
            known = self.envs.ret_rms
            known.mean, known.var, known.count = np.asarray(mean), np.asarray(var), count
        board = str(out / "tensorboard") if importlib.util.find_spec("tensorboard") else None
        self.model = make_ppo(self.envs, observation, seed=seed, tensorboard=board, **chosen)
        if old is not None:
            _take_over(self.model, old)
        if found and old is not None:
            self.model.num_timesteps = old.steps
            self.points = [point for point in self.points if point["steps"] <= old.steps]
        # A resumed run must not dream the same again; this seeds its environments, too.
        self.model.set_random_seed(seed + 7919 * len(self.points))
        self.agent = Agent.of(self.model, observation, world, name, chosen)

    def run(
        self, *, minutes: float | None = None, steps: int | None = None, stages: int = 1, measure: Measure | None = None
    ) -> Agent:
        """Train for so many minutes or decisions of the agent in all, earlier calls that were resumed included.

        Between `stages` equal parts the agent is judged by `measure` and saved. Ctrl-C saves it too.
        """
        if (minutes is None) == (steps is None):
            raise InvalidInput(f"the budget is {minutes} minutes and {steps} steps; give one of the two")
        course = Course(self, minutes, steps, stages, measure)
        hidden: tuple[type[Exception], ...] = ()  # errors of the last saving, where an earlier one is to be told
        try:
            with logging_to(self.out / "tensorboard"):
                self.model.learn(
                    steps - self._done(steps) if steps is not None else 1 << 62,
                    callback=course,
                    reset_num_timesteps=not self.points,
                )
        except Exception:
            hidden = (InvalidInput,)
            raise
        finally:
            course.close()
            with contextlib.suppress(*hidden):
                self.save()
        return self.agent

    def note(self, scores: dict[str, Score]) -> None:
        """Put scores of the agent as it is to the last point of the curve, and save."""
        self.points[-1]["scores"] = {name: score.to_json() for name, score in scores.items()}
        self.save()

    def save(self) -> None:
        """Write all that `resume` needs; the agent last, which says how many of the points count."""
        write_json(self.out / REWARDS, reward_scale(self.envs))
        write_json(self.out / CURVE, {"points": self.points})
        self.agent.steps = self.model.num_timesteps
        self.agent.save(self.out / AGENT)

    def _done(self, steps: int) -> int:
        """Decisions taken in calls before this one."""
        return min(self.points[-1]["steps"] if self.points else 0, steps)


def find_agent(out: Path, resume: bool) -> bool:
    """Whether `out` holds an agent to go on with; raises InvalidInput where it holds one that is not to be resumed."""
    found, old = (out / AGENT).exists(), out / "agent.zip"
    if (found or old.exists()) and not resume:
        raise InvalidInput(f"{out} holds an agent already; add --resume to train it on, or choose another --out")
    if not found and old.exists():
        load_agent(old)  # raises what to do with an agent of an older format
    return found


def _read(path: Path, *names: str) -> list[Any]:
    """Values from a file that `Training.save` wrote beside the agent."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [found[name] for name in names]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{path} cannot be read ({error}); restore it from a copy, or train anew in another --out"
        ) from error


def _load(path: Path, observation: ObservationConfig, world: World) -> Agent:
    """A saved agent; raises InvalidInput for one that cannot see this world as `observation` says."""
    agent = load_agent(path)
    agent.check_world(world)
    if agent.observation != observation:
        raise InvalidInput(f"the agent {path} sees {agent.observation}, not {observation}; use the same options")
    return agent


def _take_over(model: PPO, old: Agent) -> None:
    """Give a new model the weights and the optimizer's state of a saved agent."""
    try:
        model.policy.load_state_dict(old.policy.state_dict())
    except RuntimeError as error:
        raise InvalidInput(
            f"the agent acts or sees otherwise than these environments want ({' '.join(str(error).split())}); train "
            "one anew"
        ) from error
    slots = old.policy.optimizer.state_dict()["state"]
    model.policy.optimizer.load_state_dict({**model.policy.optimizer.state_dict(), "state": slots})


class Course(BaseCallback):
    """Follows a run: progress bar, curve, stages, the end of the budget."""

    def __init__(
        self, training: Training, minutes: float | None, steps: int | None, stages: int, measure: Measure | None
    ) -> None:
        super().__init__()
        self._training, self._measure, self._stages = training, measure, stages
        self._minutes, self._steps = minutes, steps
        self._began = time.monotonic()
        self._before = float(training.points[-1]["minutes"]) if training.points else 0.0
        self._judged = sum("scores" in point for point in training.points)
        total = steps if steps is not None else round(60 * (minutes or 0))
        self._bar = tqdm(total=total, unit="step" if steps is not None else "s", dynamic_ncols=True, mininterval=1.0)

    def close(self) -> None:
        """Finish the bar, and the curve with what came after its last point."""
        points = self._training.points
        if self.num_timesteps and (not points or points[-1]["steps"] != self.num_timesteps):
            self._add_point()
        self._bar.close()

    def _used(self) -> float:
        """The part of the budget that is gone."""
        if self._steps is not None:
            return self.num_timesteps / self._steps
        return (self._before * 60 + time.monotonic() - self._began) / max(60 * (self._minutes or 0), 1e-9)

    def _on_step(self) -> bool:
        return self._steps is not None or self._used() < 1

    def _on_rollout_end(self) -> None:
        used = min(self._used(), 1.0)
        # Stable-Baselines3 knows budgets of steps alone. A schedule of the caller's own stays.
        rate = self.model.learning_rate
        if not callable(rate):
            self.model.lr_schedule = ConstantSchedule(rate * max(1 - used, LEAST_RATE))
        self._bar.update(round(used * self._bar.total) - self._bar.n)
        point = self._add_point()
        self._bar.set_postfix_str(", ".join(f"{k} {v:.0f}" for k, v in point.items() if k.startswith("return")))
        if self._measure is not None and used < 1 and used * self._stages >= self._judged + 1:
            self._judged, began = int(used * self._stages), time.monotonic()
            scores = self._measure(self._training.agent)
            for name, score in scores.items():
                self.logger.record(f"{name}/return", score.mean)
            self._training.note(scores)
            self._began += time.monotonic() - began  # to be judged is no training

    def _add_point(self) -> dict[str, Any]:
        minutes = self._before + (time.monotonic() - self._began) / 60
        point: dict[str, Any] = {"steps": self.num_timesteps, "minutes": round(minutes, 3)}
        if self.model.ep_info_buffer:
            point["return_in_training"] = float(np.mean([info["r"] for info in self.model.ep_info_buffer]))
        self._training.points.append(point)
        return point
