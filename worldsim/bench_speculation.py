"""What speculation brings: hits, latencies, steps a second and discarded work for several kinds of callers.

Every stream of actions is played twice, with speculation and without, a segment of the one after a segment of the
other, so that both meet the same machine; and what both gave is compared to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from worldsim.bench import EXTRA_WARM_UP, Endless, machine
from worldsim.spec import Pictures, WorldProtocol
from worldsim.speculation import Speculation, SpeculationStats
from worldsim.streams import Stream
from worldsim.text import table
from worldsim.world import World

SEGMENT = 100  # steps in a row with speculation, and then without
KINDS = ("hit", "late", "miss")
MakeEnv = Callable[[WorldProtocol, int, Speculation | None], gym.Env[Any, Any]]  # world, hold, speculate


@dataclass
class Timed:
    """One environment and what its steps took.

    The first step of a segment is not timed: the caller was away for long.
    """

    env: gym.Env[Any, Any]
    think: float  # seconds that the caller takes before each step
    seconds: list[float] = field(default_factory=list)  # of each step
    kinds: list[str] = field(default_factory=list)  # what became of it
    total: float = 0.0  # all time, that of thinking included

    def play(self, actions: np.ndarray) -> list[tuple[Any, ...]]:
        """Take these actions; what each of them gave."""
        results = []
        stats: SpeculationStats | None = self.env.unwrapped.speculation_stats  # type: ignore[attr-defined]
        results.append(self.env.step(actions[0]))
        begin = time.perf_counter()
        for action in actions[1:]:
            if self.think:
                time.sleep(self.think)
            asked = time.perf_counter()
            results.append(self.env.step(action))
            self.seconds.append(time.perf_counter() - asked)
            self.kinds.append(stats.last if stats is not None else "off")
        self.total += time.perf_counter() - begin
        return results


def bench_speculation(
    world: World,
    make_env: MakeEnv,
    streams: Sequence[Stream],
    think_ms: Sequence[float],
    depths: Sequence[int],
    *,
    adapt: bool = True,
    pictures: Pictures = "frame",
) -> dict[str, Any]:
    """Every stream with every thinking time and every greatest depth of the guesses.

    `make_env(world, hold, speculate)` gives a single environment that decodes these `pictures`. The result has
    "world", "machine", "stages_ms" (the parts of a step) and "runs".
    """
    runs = []
    for stream in streams:
        for think in think_ms:
            for depth in depths:
                settings = Speculation(depth=depth, adapt=adapt)
                described = {"stream": stream.name, "hold": stream.hold, "think_ms": think, "depth": depth}
                runs.append({**described, **compare(world, make_env, stream, think / 1000, settings)})
    return {
        "world": world.config.name,
        "decoded": pictures,
        "machine": machine(world),
        "adapt": adapt,
        "stages_ms": stages_ms(world, pictures),
        "runs": runs,
    }


def compare(world: World, make_env: MakeEnv, stream: Stream, think: float, settings: Speculation) -> dict[str, Any]:
    """One stream with speculation and without."""
    endless = Endless(world)
    off = Timed(make_env(endless, stream.hold, None), think)
    on = Timed(make_env(endless, stream.hold, settings), think)
    warm_up = np.resize(stream.actions, (world.config.dynamics.window + EXTRA_WARM_UP, *stream.actions.shape[1:]))
    for timed in (off, on):
        timed.env.reset(seed=0)
        timed.play(warm_up)
        timed.env.unwrapped.ahead.forget()  # type: ignore[attr-defined]
        timed.seconds, timed.kinds, timed.total = [], [], 0.0
    equal = 0
    for begin in tqdm(range(0, len(stream.actions), SEGMENT), desc=f"{stream.name}, {1000 * think:g} ms", leave=False):
        segment = stream.actions[begin : begin + SEGMENT]
        pairs = zip(off.play(segment), on.play(segment), strict=True)
        equal += sum(_same(one, other) for one, other in pairs)
        on.env.unwrapped.ahead.forget()  # type: ignore[attr-defined]  # so that the other one has the machine to itself
    stats = on.env.unwrapped.speculation_stats.to_json()  # type: ignore[attr-defined]
    for timed in (off, on):
        timed.env.close()
    latency = {**{kind: _latency(on, kind) for kind in KINDS}, "off": _latency(off, "off")}
    steps = len(on.kinds)
    return {
        "steps": len(stream.actions),
        "equal_steps": equal,
        "timed_steps": steps,
        "hit_rate": sum(kind != "miss" for kind in on.kinds) / steps,
        "in_time_rate": on.kinds.count("hit") / steps,
        "latency_ms": latency,
        "hit_over_miss": _ratio(latency["hit"], latency["miss"]),
        "hit_over_off": _ratio(latency["hit"], latency["off"]),
        "steps_per_s_off": steps / off.total,
        "steps_per_s_on": steps / on.total,
        "on_over_off": off.total / on.total,
        "guesses": stats,
    }


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two steps gave the same: observation, reward, ending, info."""
    info, other_info = one[4], other[4]
    same_info = info.keys() == other_info.keys() and all(np.array_equal(info[k], other_info[k]) for k in info)
    return np.array_equal(one[0], other[0]) and one[1:4] == other[1:4] and same_info


def _latency(timed: Timed, kind: str) -> dict[str, float | None]:
    found = [s for s, k in zip(timed.seconds, timed.kinds, strict=True) if k == kind]
    return {f"p{p}": 1000 * float(np.percentile(found, p)) if found else None for p in (50, 95)}


def _ratio(one: dict[str, float | None], other: dict[str, float | None]) -> float | None:
    a, b = one["p50"], other["p50"]
    return a / b if a is not None and b is not None else None


def stages_ms(world: World, pictures: Pictures = "frame", steps: int = 50) -> dict[str, float]:
    """Median time of every stage of a step of one world, by name; "preparing" is what comes before the first."""
    spec = world.spec.actions
    actions = spec.lowest(1)
    state = world.reset(seed=[0])
    found: dict[str, list[float]] = {}
    for _ in range(world.config.dynamics.window + steps):
        stages, name, done = world.stages(state, actions, pictures=pictures), "preparing", False
        while not done:
            begin = time.perf_counter()
            try:
                following = next(stages)
            except StopIteration as end:
                (state, _), following, done = end.value, "", True
            found.setdefault(name, []).append(1000 * (time.perf_counter() - begin))
            name = following
    return {name: float(np.median(values[-steps:])) for name, values in found.items()}


def format_speculation(report: dict[str, Any]) -> str:
    """The report as a table."""
    stages = ", ".join(f"{name} {ms:.2f}" for name, ms in report["stages_ms"].items())
    titles = ("stream", "think", "depth", "hits", "in time", *(f"{kind} p50" for kind in (*KINDS, "off")))
    titles += ("hit/off", "discarded", "on/off", "equal")
    head = f"{report['world']}, one environment; stages of a step, ms: {stages}"
    return f"{head}\n\n{table(titles, map(_cells, report['runs']))}"


def _cells(run: dict[str, Any]) -> list[str]:
    p50 = [run["latency_ms"][kind]["p50"] for kind in (*KINDS, "off")]
    return [
        run["stream"][:12],
        f"{run['think_ms']:g}",
        str(run["depth"]),
        f"{run['hit_rate']:.1%}",
        f"{run['in_time_rate']:.1%}",
        *("-" if ms is None else f"{ms:.2f}" for ms in p50),
        "-" if run["hit_over_off"] is None else f"{run['hit_over_off']:.3f}",
        f"{run['guesses']['discarded_share']:.1%}",
        f"{run['on_over_off']:.3f}",
        f"{run['equal_steps']}/{run['steps']}",
    ]
