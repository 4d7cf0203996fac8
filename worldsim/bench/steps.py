"""How fast environments step on this machine, and how much of what the machine can compute they use.

Everything is timed from outside, through the environment's `step`: checks, model, decoder, reward, numpy. A
run is in steady state: the history's window is full, and endings are ignored so that no reset falls among the
steps.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from worldsim.io.text import table
from worldsim.spec import Decoding, Stages, WorldProtocol
from worldsim.world import World
from worldsim.wrappers import WorldWrapper

MARKS = (200, 1000, 5000, 20_000)  # steps of an episode at which growth is told
AROUND = 100  # last steps before a mark, of which the median counts
EXTRA_WARM_UP = 10  # steps after the window is full, before anything is timed
PEAK_SIDE = 1024  # of the square matrices whose product is the machine's peak
PEAK_TRIES = 30

AnyEnv = gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]


class Endless(WorldWrapper):
    """A world whose episodes never end, and the same in everything else."""

    def __init__(self, world: WorldProtocol) -> None:
        super().__init__(world)
        if hasattr(world, "rewind"):  # as environments find it in the world itself; else they copy each state
            self.rewind = world.rewind

    def stages(self, state: Any, actions: np.ndarray, *, decode: Decoding = "all") -> Stages:
        """As the world's, but nothing terminates."""
        state, step = yield from super().stages(state, actions, decode=decode)
        return state, dataclasses.replace(step, terminated=np.zeros_like(step.terminated))


def bench_world(
    world: World,
    make_env: Callable[[WorldProtocol, int], AnyEnv],
    num_envs: Sequence[int],
    steps: int,
    decode: Decoding = "frame",
    *,
    compiled: bool = False,
) -> dict[str, Any]:
    """Time `steps` steps with each number of environments, of the world as it is or `compiled`.

    `make_env(world, n)` gives a `gym.Env` for n = 1 and a vector environment above, which decode what `decode` says.
    The result has "world", "machine" and "runs".
    """
    peak = matmul_gflops(world.device, world.dtype)
    timed = world.compiled() if compiled else world
    runs = []
    for count in num_envs:
        env = make_env(Endless(timed), count)
        warm_up = world.config.dynamics.context_length + EXTRA_WARM_UP
        seconds = time_steps(env, warm_up, steps)
        env.close()
        gflop = step_gflop(world, count, decode) / count
        rate = count / float(np.median(seconds))
        runs.append(
            {
                "num_envs": count,
                "steps_per_s": rate,
                "ms_p50": 1000 * float(np.median(seconds)),
                "ms_p95": 1000 * float(np.percentile(seconds, 95)),
                "gflop_per_frame": gflop,
                "fraction_of_peak": gflop * rate / peak,
            }
        )
    return {
        "world": world.config.name,
        "decoded": decode,
        "machine": {**machine(world), "matmul_gflops": peak},
        "compiled": compiled,
        "runs": runs,
    }


def time_steps(env: AnyEnv, warm_up: int, steps: int) -> np.ndarray:
    """Seconds of each of `steps` calls of `env.step` with random actions, after a warm-up: (steps,)."""
    env.reset(seed=0)
    env.action_space.seed(0)
    seconds = np.zeros(steps)
    for i in tqdm(range(-warm_up, steps), desc="steps", leave=False):
        action = env.action_space.sample()
        begin = time.perf_counter()
        env.step(action)
        if i >= 0:
            seconds[i] = time.perf_counter() - begin
    return seconds


def step_gflop(world: World, count: int, decode: Decoding = "frame") -> float:
    """Billions of floating-point operations of one step of `count` worlds, uncompiled; a multiply-add is two."""
    state = world.reset(list(range(count)))
    with FlopCounterMode(display=False) as counter:
        world.step(state, world.spec.actions.lowest(count), decode=decode)
    return counter.get_total_flops() / 1e9


def matmul_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """The best rate of a square matrix product in the world's number format, in GFLOP/s."""
    a, b = (torch.randn(PEAK_SIDE, PEAK_SIDE, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(PEAK_TRIES):
        begin = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - begin)
    return 2 * PEAK_SIDE**3 / best / 1e9


def machine(world: World) -> dict[str, Any]:
    """What the figures were measured on."""
    cuda = world.device.type == "cuda"
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(world.device) if cuda else None,
        "torch": torch.__version__,
        "device": str(world.device),
        "dtype": str(world.dtype).removeprefix("torch."),
    }


def describe_machine(m: Mapping[str, Any]) -> str:
    """What `machine` says, in words."""
    where = m["accelerator"] or f"{m['cpu']}, {m['cores']} cores, {m['threads']} threads"
    return f"{where}; torch {m['torch']}, {m['dtype']}"


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def measure_memory(env: gym.Env[Any, Any], steps: int) -> dict[str, Any]:
    """How much a process grows over `steps` steps with resets, after a warm-up of a tenth of them."""
    env.reset(seed=0)
    env.action_space.seed(0)
    warm_up, resets, start = max(steps // 10, 1), 0, 0.0
    for i in tqdm(range(warm_up + steps), desc="memory", leave=False):
        if i == warm_up:
            start = resident_megabytes()
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
            resets += 1
    end = resident_megabytes()
    return {
        "steps": steps,
        "warm_up_steps": warm_up,
        "resets": resets,
        "start_mb": start,
        "end_mb": end,
        "growth_mb": end - start,
    }


def measure_growth(env: gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any], steps: int) -> dict[str, Any]:
    """What steps take and the process holds as one episode gets longer, at `MARKS` and at the end.

    Give an env whose episodes do not end. "marks" has step, ms (median of the steps just before), cpu_ms (of processor
    time, which others on the machine change less) and mb of each.
    """
    env.reset(seed=0)
    env.action_space.seed(0)
    marks, taken, found = {*(m for m in MARKS if m < steps), steps}, np.zeros((steps, 2)), []
    for i in tqdm(range(steps), desc="growth", leave=False):
        action, begin = env.action_space.sample(), (time.perf_counter(), time.process_time())
        env.step(action)
        taken[i] = np.subtract((time.perf_counter(), time.process_time()), begin)
        if i + 1 in marks:
            ms, cpu_ms = (1000 * np.median(taken[max(i + 1 - AROUND, 0) : i + 1], axis=0)).tolist()
            found.append({"step": i + 1, "ms": ms, "cpu_ms": cpu_ms, "mb": resident_megabytes()})
    return {"steps": steps, "marks": found}


def resident_megabytes() -> float:
    """Memory of this process in RAM, in MB (2**20 bytes); where there is no /proc, the most it ever was."""
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    except OSError:
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, kilobytes elsewhere
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def format_bench(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [
        f"{report['world']} on {describe_machine(report['machine'])}, "
        f"matrix product {report['machine']['matmul_gflops']:.0f} GFLOP/s; frames decoded: {report['decoded']}"
        + ("; compiled" if report["compiled"] else ""),
        "",
        table(
            ("environments", "steps/s", "p50, ms", "p95, ms", "GFLOP/frame", "of peak"),
            (
                (
                    str(run["num_envs"]), f"{run['steps_per_s']:.1f}", f"{run['ms_p50']:.2f}", f"{run['ms_p95']:.2f}",
                    f"{run['gflop_per_frame']:.3f}", f"{run['fraction_of_peak']:.1%}",
                )
                for run in report["runs"]
            ),
        ),
    ]  # fmt: skip
    if "memory" in report:
        memory = report["memory"]
        lines += [
            "",
            f"memory {memory['growth_mb']:+.1f} MB over {memory['steps']} steps, "
            f"from {memory['start_mb']:.1f} MB after {memory['warm_up_steps']} steps of warm-up; "
            f"{memory['resets']} resets in all",
        ]
    if "growth" in report:
        first, rows = report["growth"]["marks"][0], []
        for m in report["growth"]["marks"]:
            ratio = m["cpu_ms"] / max(first["cpu_ms"], 1e-9)
            rows.append((str(m["step"]), f"{m['ms']:.2f}", f"{m['cpu_ms']:.2f}", f"{ratio:.2f}", f"{m['mb']:.1f}"))
        heads = ("step of one episode", "ms", "processor, ms", "times the first", "process, MB")
        lines += ["", table(heads, rows)]
    return "\n".join(lines)
