"""All measurements of a world, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from worldsim.data.episodes import Episodes
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


class Timer:
    """Calls what measures, and keeps how long it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, measure: Callable[[], Any]) -> Any:
        """What `measure` gives; its time is kept by `name`."""
        begin = time.perf_counter()
        result = measure()
        self.seconds[name] = round(time.perf_counter() - begin, 1)
        return result


def run_study(
    world: World,
    stores: Stores,
    drift_actions: DrawActions,
    ending_actions: DrawActions | None,
    effort: Effort,
    probes: Sequence[Probe] = (),
) -> Study:
    """Measure everything; raises InvalidInput before it begins where the stores hold too little.

    Horizons that no episode is long enough for are left out, which the report says ("horizons_left_out").

    `drift_actions` drives the long dreams. `ending_actions` draws fresh actions of the policy of
    `stores.random` (of `stores.held_out` where there is no such store); None replays the recorded ones.
    """
    asked, effort = effort, fit_effort(effort, stores.held_out)
    held_out, random = stores.held_out, stores.random or stores.held_out
    context = ProbeContext(world, random, ending_actions, effort)
    _check_enough(world, stores, effort)
    for probe in probes:
        probe.check(context)
    timed = Timer()
    tokenizer = timed("tokenizer", lambda: measure_tokenizer(world, held_out, effort))
    horizons = timed("horizons", lambda: measure_horizons(world, held_out, effort))
    actions = drift_actions(effort.drift_worlds, effort.drift_steps, effort.seed)
    drift = timed("drift", lambda: measure_drift(world, held_out, actions, effort))
    endings = timed("endings", lambda: measure_hazard(world, random, ending_actions, effort))
    rewards = timed("rewards", lambda: measure_rewards(world, held_out, horizons.clips, effort))
    head = timed("ending_head", lambda: measure_ending_head(world, held_out, effort))
    report: dict[str, Any] = {
        "tokenizer_psnr": tokenizer["psnr"],
        "tokenizer": tokenizer,
        "horizons": horizons.table,
        "horizons_left_out": [steps for steps in asked.horizons if steps not in effort.horizons],
        "drift": drift.table,
        "rewards": rewards,
        "endings": {**endings.table, "teacher_forced": head},
    }
    found = {probe.name: timed(probe.name, partial(probe.measure, context)) for probe in probes}
    report["probes"] = {name: result.figures for name, result in found.items()}
    report["actions"] = timed("actions", lambda: measure_actions(world, held_out, horizons, stores.probe, effort))
    return Study({**report, "seconds": timed.seconds, "effort": asdict(effort)}, horizons, drift, endings, found)


def _check_enough(world: World, stores: Stores, effort: Effort) -> None:
    """Ask of the stores what the last measurements need, which come after minutes."""
    watched_episodes(stores.random or stores.held_out)
    rows = effort.context + max(effort.horizons)
    split(stores.held_out, choose_spans(stores.held_out, effort.clips, rows, effort.seed), stores.probe)
