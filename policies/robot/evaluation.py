"""Policies judged in a learned world: success rates, and how far to trust them by what the real simulator says.

As in WorldGym (Quevedo et al., 2025) and SIMPLER (Li et al., 2024): the rates of many policies in both places should
correlate (Pearson's r) and rank alike (mean maximum rank violation). Beside these stands how often the two places agree
about single episodes, from the same start: of the policy acting in each, and of the real actions replayed in the dream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.envs.sources.base import Source
from worldsim.errors import InvalidInput
from worldsim.io.files import write_json
from worldsim.policies.correlation import agreement, mmrv_interval, pearson_interval
from worldsim.policies.robot.protocol import MakePolicy
from worldsim.policies.robot.rollouts import (
    Episodes,
    check_world,
    dream_episodes,
    dream_replays,
    own_starts,
    real_episodes,
    real_starts,
    tasks_of,
)
from worldsim.world import World

SEED = 1 << 30  # of the judged episodes, far from those of recordings
Z = 1.96  # deviations in a 95 % interval


@dataclass(frozen=True)
class EvaluateConfig:
    """How policies are judged."""

    episodes: int = 20  # of each policy and task, in either place
    steps: int | None = None  # of an episode; None: the recorded simulator's limit
    tasks: tuple[str, ...] = ()  # names; none: all of the world's
    seed: int = SEED  # of the first episode; the others have the next ones

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.seed < 0 or (self.steps is not None and self.steps < 1):
            raise InvalidInput(
                f"episodes is {self.episodes}, steps {self.steps} and seed {self.seed}; give at least 1, 1 and 0"
            )


@dataclass(frozen=True)
class Verdict:
    """One policy in one task."""

    policy: str
    task: str
    dream: Episodes
    real: Episodes | None = None
    replayed: Episodes | None = None  # the real actions in the dream

    def agrees(self, replayed: bool = False) -> float:
        """The share of episodes with the same outcome in both places; NaN without the real one."""
        other = self.replayed if replayed else self.dream
        if self.real is None or other is None:
            return math.nan
        return float((other.success == self.real.success).mean())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        row: dict[str, Any] = {"policy": self.policy, "task": self.task}
        for name in ("dream", "real", "replayed"):
            played: Episodes | None = getattr(self, name)
            if played is not None:
                row[name] = {
                    "success": played.success.astype(int).tolist(), "steps": played.steps.tolist(),
                    "rate": float(played.success.mean()), "interval": list(interval(played.success)),
                }  # fmt: skip
        return row


@dataclass(frozen=True)
class RobotReport:
    """Every policy in every task."""

    world: str
    verdicts: list[Verdict]
    asked: dict[str, Any] = field(default_factory=dict)  # what was run, for the file

    def agreements(self) -> dict[str, dict[str, Any]]:
        """For each task and for "all": r and MMRV of success rates with intervals, and how often episodes agree.

        Empty without the real simulator. In "all" every policy of every task counts as one.
        """
        judged = [v for v in self.verdicts if v.real is not None]
        names = dict.fromkeys(v.task for v in judged)
        groups = {name or "the task": [v for v in judged if v.task == name] for name in names}
        if len(groups) > 1:
            groups["all"] = judged
        return {name: _agreement(group) for name, group in groups.items()}

    def to_text(self) -> str:
        """Two Markdown tables: rates, and how well the two places agree."""
        real = any(v.real is not None for v in self.verdicts)
        titles = ["policy", "task", "success in the dream"]
        titles += ["in the real simulator", "episodes that agree", "with the real actions"] if real else []
        lines = [_row(titles), "|" + "---|" * len(titles)]
        for v in self.verdicts:
            cells = [v.policy, v.task, _rate(v.dream)]
            if v.real is not None:
                cells += [_rate(v.real), f"{v.agrees():.2f}", f"{v.agrees(replayed=True):.2f}"]
            lines.append(_row(cells))
        found = self.agreements()
        if found:
            titles = ["task", "policies", "Pearson's r", "MMRV", "episodes that agree", "with the real actions"]
            lines += ["", _row(titles), "|" + "---|" * len(titles)]
            lines += [_row([name, *_cells(one)]) for name, one in found.items()]
        return "\n".join(lines)

    def save(self, out: Path) -> None:
        """Write `robots.json`, and with the real simulator `robots.png`."""
        values = {**self.asked, "agreement": self.agreements(), "verdicts": [v.to_json() for v in self.verdicts]}
        write_json(out / "robots.json", values)
        if any(v.real is not None for v in self.verdicts):
            from worldsim.policies.robot.plots import save_scatter

            save_scatter(out / "robots.png", self.verdicts)


def evaluate_policies(
    world: World,
    policies: Mapping[str, MakePolicy],
    config: EvaluateConfig | None = None,
    *,
    real: Source | None = None,
    real_blind: Source | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> RobotReport:
    """Play every policy in every task of a world, and in the simulator `real` from the same starts.

    `real_blind` is the same simulator without frames, for policies that see none. Without `real` episodes begin as
    recorded ones did. `tell` is called with a line for every policy and task. Raises InvalidInput for a world without
    the stream `success` and for tasks that it does not know.
    """
    from worldsim.policies.robot.protocol import sees_frames

    c = config or EvaluateConfig()
    check_world(world)
    if not policies:
        raise InvalidInput("there is no policy to evaluate; name one or more")
    steps = c.steps or world.spec.max_episode_steps
    if steps is None:
        raise InvalidInput(f"world {world.spec.name!r} has no limit of steps; give --steps")
    looks = {name: sees_frames(make()) for name, make in policies.items()}
    verdicts = []
    for task in _tasks(world, c.tasks):
        seeds = range(c.seed, c.seed + c.episodes)
        starts = own_starts(world, task, c.episodes, c.seed) if real is None else real_starts(real, task, seeds)
        for name, make in policies.items():
            dream, played, replayed = dream_episodes(world, make, starts, steps), None, None
            if real is not None:
                source = real if looks[name] or real_blind is None else real_blind
                played = real_episodes(source, world.spec, make, task, seeds, steps)
                replayed = dream_replays(world, starts, played.actions)
            verdicts.append(Verdict(name, task, dream, played, replayed))
            tell(f"{name}, {task or 'the task'}: dream {_rate(dream)}" + (f", real {_rate(played)}" if played else ""))
    return RobotReport(world.spec.name, verdicts)


def interval(success: np.ndarray) -> tuple[float, float]:
    """95 % of a success rate by Wilson's score, which says something at 0 and 1, too, where a bootstrap does not."""
    n, rate = len(success), float(success.mean())
    middle, spread = rate + Z**2 / (2 * n), Z * math.sqrt(rate * (1 - rate) / n + Z**2 / (4 * n**2))
    low, high = ((middle + side * spread) / (1 + Z**2 / n) for side in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def _tasks(world: World, wanted: Sequence[str]) -> tuple[str, ...]:
    known = tasks_of(world.spec)
    if unknown := [task for task in wanted if task not in known]:
        raise InvalidInput(f"world {world.spec.name!r} knows no task {unknown[0]!r}; it knows {', '.join(known)}")
    return tuple(wanted) or known


def _agreement(group: Sequence[Verdict]) -> dict[str, Any]:
    dream = [v.dream.success.astype(float).tolist() for v in group]
    real = [v.real.success.astype(float).tolist() for v in group if v.real is not None]
    means = [[float(np.mean(one)) for one in place] for place in (dream, real)]
    return {
        **agreement(*means), "policies": len(group),
        "pearson_ci": pearson_interval(dream, real), "mmrv_ci": mmrv_interval(dream, real),
        "episodes_agree": float(np.mean([v.agrees() for v in group])),
        "replays_agree": float(np.mean([v.agrees(replayed=True) for v in group])),
    }  # fmt: skip


def _cells(one: Mapping[str, Any]) -> list[str]:
    r, m = ([f"{value:.2f}" for value in (one[key], *one[f"{key}_ci"])] for key in ("pearson", "mmrv"))
    shares = [f"{one[key]:.2f}" for key in ("episodes_agree", "replays_agree")]
    return [str(one["policies"]), f"{r[0]} [{r[1]}, {r[2]}]", f"{m[0]} [{m[1]}, {m[2]}]", *shares]


def _rate(played: Episodes) -> str:
    low, high = interval(played.success)
    return f"{played.success.mean():.2f} [{low:.2f}, {high:.2f}]"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
