"""What speculation brings: hits, latencies, steps a second and discarded work for several kinds of callers.

Every stream of actions is played twice, with speculation and without, a segment of the one after a segment of the
other, so that both meet the same machine; and what both gave is compared to the bit.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from worldsim.bench.steps import EXTRA_WARM_UP, AnyEnv, Endless, machine
from worldsim.io.text import table
from worldsim.spec import WorldProtocol
from worldsim.speculation import Speculation
from worldsim.world import World

SEGMENT = 100  # steps in a row with speculation, and then without
KINDS = ("hit", "late", "miss", "off")
MakeEnv = Callable[[WorldProtocol, Speculation | None], AnyEnv]


@dataclass
class Timed:
    """One environment and what its steps took.

    The first step of a segment is not timed: the caller was away for long.
    """

    env: Any
    think: float  # seconds that the caller takes before each step
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # of steps, by their kind
    total: float = 0.0  # all time, that of thinking included

    def play(self, actions: np.ndarray) -> list[tuple[Any, ...]]:
        """Take these actions; what each of them gave."""
        stats = self.env.unwrapped.speculation_stats
        results = [self.env.step(actions[0])]
        begin = time.perf_counter()
        for action in actions[1:]:
            if self.think:
                time.sleep(self.think)
            asked = time.perf_counter()
            results.append(self.env.step(action))
            self.seconds["off" if stats is None else stats.last].append(time.perf_counter() - asked)
        self.total += time.perf_counter() - begin
        return results


def bench_speculation(
    world: World, make_env: MakeEnv, streams: Mapping[str, np.ndarray], think_ms: Sequence[float]
) -> dict[str, Any]:
    """Every stream of actions, by name, with every thinking time.

    `make_env(world, speculate)` gives a single environment. The result has "world", "machine" and "runs".
    """
    runs = [
        {"stream": name, "think_ms": think, **compare(world, make_env, name, actions, think / 1000)}
        for name, actions in streams.items()
        for think in think_ms
    ]
    return {"world": world.config.name, "machine": machine(world), "runs": runs}


def compare(world: World, make_env: MakeEnv, name: str, actions: np.ndarray, think: float) -> dict[str, Any]:
    """One stream with speculation and without."""
    endless = Endless(world)
    envs: list[Any] = [make_env(endless, None), make_env(endless, Speculation())]
    warm_up = np.resize(actions, (world.config.dynamics.context_length + EXTRA_WARM_UP, *actions.shape[1:]))
    for env in envs:
        env.reset(seed=0)
        Timed(env, think).play(warm_up)
        env.unwrapped.ahead.forget()
    off, on = (Timed(env, think) for env in envs)
    equal = 0
    for begin in tqdm(range(0, len(actions), SEGMENT), desc=f"{name}, {1000 * think:g} ms", leave=False):
        segment = actions[begin : begin + SEGMENT]
        equal += sum(_same(one, other) for one, other in zip(off.play(segment), on.play(segment), strict=True))
        on.env.unwrapped.ahead.forget()  # so that the other one has the machine to itself
    for env in envs:
        env.close()
    steps = sum(map(len, on.seconds.values()))
    return {
        "steps": len(actions),
        "equal_steps": equal,
        "timed_steps": steps,
        "hit_rate": 1 - len(on.seconds["miss"]) / steps,
        "in_time_rate": len(on.seconds["hit"]) / steps,
        "latency_ms": {kind: _latency((off if kind == "off" else on).seconds[kind]) for kind in KINDS},
        "steps_per_s_off": steps / off.total,
        "steps_per_s_on": steps / on.total,
        "on_over_off": off.total / on.total,
        "guesses": on.env.unwrapped.speculation_stats.to_json(),
    }


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two steps gave the same: observation, reward, ending, info."""
    info, other_info = one[4], other[4]
    same_info = info.keys() == other_info.keys() and all(np.array_equal(info[k], other_info[k]) for k in info)
    return np.array_equal(one[0], other[0]) and one[1:4] == other[1:4] and same_info


def _latency(seconds: list[float]) -> dict[str, float | None]:
    return {f"p{p}": 1000 * float(np.percentile(seconds, p)) if seconds else None for p in (50, 95)}


def format_speculation(report: dict[str, Any]) -> str:
    """The report as a table."""
    titles = ("stream", "think", "hits", "in time", *(f"{kind} p50" for kind in KINDS))
    titles += ("discarded", "on/off", "equal")
    head = f"{report['world']}, one environment; latencies are medians in ms"
    return f"{head}\n\n{table(titles, map(_cells, report['runs']))}"


def _cells(run: dict[str, Any]) -> list[str]:
    p50 = [run["latency_ms"][kind]["p50"] for kind in KINDS]
    lost = run["guesses"]["discarded_seconds"] / max(1e-9, run["guesses"]["computed_seconds"])
    return [
        run["stream"][:12],
        f"{run['think_ms']:g}",
        f"{run['hit_rate']:.1%}",
        f"{run['in_time_rate']:.1%}",
        *("-" if ms is None else f"{ms:.2f}" for ms in p50),
        f"{lost:.1%}",
        f"{run['on_over_off']:.3f}",
        f"{run['equal_steps']}/{run['steps']}",
    ]
