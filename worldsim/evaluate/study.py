"""All measurements of a world: the parts, which any number of workers may measure, and the study they make up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput
from worldsim.evaluate.actions import measure_actions, split
from worldsim.evaluate.data import choose_spans
from worldsim.evaluate.drift import DriftResult, measure_drift
from worldsim.evaluate.effort import Effort, fit_effort
from worldsim.evaluate.ending_head import measure_ending_head
from worldsim.evaluate.endings import DrawActions, EndingResult, measure_hazard, watched_episodes
from worldsim.evaluate.horizons import HorizonResult, measure_horizons
from worldsim.evaluate.probes import Probe, ProbeContext, ProbeResult
from worldsim.evaluate.rewards import measure_rewards
from worldsim.evaluate.tokenizer import measure_tokenizer
from worldsim.world import World


@dataclass(frozen=True)
class Stores:
    """Where the real frames come from, all checked against the world."""

    held_out: Episodes
    random: Episodes | None = None  # recorded with a policy that does not look; for endings and a world's probes
    probe: Episodes | None = None  # to train the action probe on


@dataclass(frozen=True)
class Study:
    """The report, as it goes into JSON, and the parts that sheets and plots are made from."""

    report: dict[str, Any]
    horizons: HorizonResult
    drift: DriftResult
    endings: EndingResult
    probes: Mapping[str, ProbeResult]  # the world's own, by name


@dataclass(frozen=True)
class Measured:
    """One result, and how long it took."""

    name: str
    result: Any
    seconds: float


@dataclass(frozen=True)
class Measuring:
    """The job of whoever measures (`worldsim.policies.rollouts`): a world, and beside what.

    `drift_actions` drives the long dreams. `ending_actions` draws fresh actions of the policy of
    `stores.random` (of `stores.held_out` where there is no such store); None replays the recorded ones.
    `probes` finds the world's own: it is called where they measure, as their code may not be known there.
    """

    world: World
    stores: Stores
    drift_actions: DrawActions
    ending_actions: DrawActions | None
    effort: Effort
    probes: Callable[[], Sequence[Probe]] = tuple

    def open(self) -> Measurer:
        """Find what is measured; raises InvalidInput where the stores hold too little, before anything is measured."""
        return Measurer(self)


class Measurer:
    """Measures one part of a study after the other. Horizons that no episode is long enough for are left out."""

    def __init__(self, job: Measuring) -> None:
        self._job = job
        self.asked, self.effort = job.effort, fit_effort(job.effort, job.stores.held_out)
        self._context = ProbeContext(
            job.world, job.stores.random or job.stores.held_out, job.ending_actions, self.effort
        )  # fmt: skip
        self._probes = {probe.name: probe for probe in job.probes()}
        _check_enough(job.world, job.stores, self.effort)
        for probe in self._probes.values():
            probe.check(self._context)

    @property
    def probes(self) -> list[str]:
        """Names of the world's own probes."""
        return list(self._probes)

    @property
    def parts(self) -> list[str]:
        """The tasks, none of which needs another's results; those that take longest come first."""
        return ["endings", "drift", "clips", *(f"probe:{name}" for name in self._probes), "tokenizer", "ending_head"]

    def run(self, task: str) -> Iterator[Measured]:
        """The results of a part, some of which are made from one another."""
        world, effort, held_out = self._job.world, self.effort, self._job.stores.held_out
        name = task.removeprefix("probe:")
        if name != task and name not in self._probes:
            raise InvalidInput(f"the probe {name!r} is not found here; put the world's folder on all machines alike")
        if task == "clips":
            yield (horizons := timed("horizons", lambda: measure_horizons(world, held_out, effort)))
            yield timed("rewards", lambda: measure_rewards(world, held_out, horizons.result.clips, effort))
            probe = self._job.stores.probe
            yield timed("actions", lambda: measure_actions(world, held_out, horizons.result, probe, effort))
            return
        measures: dict[str, Callable[[], Any]] = {
            "tokenizer": lambda: measure_tokenizer(world, held_out, effort),
            "drift": self._drift,
            "endings": lambda: measure_hazard(world, self._context.episodes, self._job.ending_actions, effort),
            "ending_head": lambda: measure_ending_head(world, held_out, effort),
        }
        yield timed(name, measures[task] if name == task else lambda: self._probes[name].measure(self._context))

    def _drift(self) -> DriftResult:
        effort = self.effort
        actions = self._job.drift_actions(effort.drift_worlds, effort.drift_steps, effort.seed)
        return measure_drift(self._job.world, self._job.stores.held_out, actions, effort)

    def close(self) -> None:
        """Nothing is held."""


def timed(name: str, measure: Callable[[], Any]) -> Measured:
    """What `measure` gives, by `name`."""
    begin = time.perf_counter()
    result = measure()
    return Measured(name, result, round(time.perf_counter() - begin, 1))


def gather(measurer: Measurer, measured: Iterable[Iterable[Measured]]) -> Study:
    """The study, from the results of all of the measurer's parts, whoever measured them."""
    found = {one.name: one for results in measured for one in results}
    names = ["tokenizer", "horizons", "drift", "endings", "rewards", "ending_head", *measurer.probes, "actions"]
    results = {name: found[name].result for name in names}
    probes = {name: results[name] for name in measurer.probes}
    effort = measurer.effort
    report: dict[str, Any] = {
        "tokenizer_psnr": results["tokenizer"]["psnr"],
        "tokenizer": results["tokenizer"],
        "horizons": results["horizons"].table,
        "horizons_left_out": [steps for steps in measurer.asked.horizons if steps not in effort.horizons],
        "drift": results["drift"].table,
        "rewards": results["rewards"],
        "endings": {**results["endings"].table, "teacher_forced": results["ending_head"]},
        "probes": {name: result.figures for name, result in probes.items()},
        "actions": results["actions"],
        "seconds": {name: found[name].seconds for name in names},
        "effort": asdict(effort),
    }
    return Study(report, results["horizons"], results["drift"], results["endings"], probes)


def _check_enough(world: World, stores: Stores, effort: Effort) -> None:
    """Ask of the stores what the last measurements need, which come after minutes."""
    watched_episodes(stores.random or stores.held_out)
    rows = effort.context + max(effort.horizons)
    split(stores.held_out, choose_spans(stores.held_out, effort.clips, rows, effort.seed), stores.probe)
