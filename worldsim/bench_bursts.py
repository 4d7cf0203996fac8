"""What drawing several steps in one pass brings on this machine, against the same held actions step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from worldsim.bench import AnyEnv, Endless, describe_machine, machine, time_steps
from worldsim.burst_world import BurstWorld
from worldsim.spec import Pictures, WorldProtocol

ROUNDS = 4  # in which the two take turns, so that what else the machine does meets both


def bench_bursts(
    bursts: BurstWorld,
    held: WorldProtocol,
    make_env: Callable[[WorldProtocol, int], AnyEnv],
    num_envs: Sequence[int],
    steps: int,
    pictures: Pictures,
) -> dict[str, Any]:
    """Time `steps` held actions of either kind, with each number of environments, which decode these `pictures`.

    `held` holds actions as long as `bursts` does. Rates are in environment steps of the learned world a second.
    """
    world, runs = bursts.world, []
    for count in num_envs:
        seconds: dict[str, list[float]] = {"burst": [], "held": []}
        envs = {"burst": make_env(Endless(bursts), count), "held": make_env(Endless(held), count)}
        warm_up = -(-world.config.dynamics.window // bursts.burst.steps)
        for round_ in range(ROUNDS):
            for name, env in envs.items():
                seconds[name] += time_steps(env, 2 if round_ else warm_up, -(-steps // ROUNDS)).tolist()
        for env in envs.values():
            env.close()
        rates = {f"{name}_steps_per_s": count * bursts.burst.steps / float(np.median(s)) for name, s in seconds.items()}
        gain = rates["burst_steps_per_s"] / rates["held_steps_per_s"]
        runs.append({"num_envs": count, **rates, "burst_over_held": gain})
    about = {"world": world.config.name, "decoded": pictures, "steps_in_a_burst": bursts.burst.steps}
    return {**about, "machine": machine(world), "runs": runs}


def format_bursts(report: dict[str, Any]) -> str:
    """The report as a table, and where bursts pay."""
    lines = [
        f"{report['world']} on {describe_machine(report['machine'])}; pictures decoded: {report['decoded']}; "
        f"{report['steps_in_a_burst']} steps of one action",
        "",
        "  envs   one by one, steps/s   in one pass, steps/s   gain",
    ]
    for run in report["runs"]:
        rates = f"{run['held_steps_per_s']:21.1f} {run['burst_steps_per_s']:22.1f}"
        lines.append(f"{run['num_envs']:6d} {rates} {run['burst_over_held']:6.2f}")
    slow = [str(run["num_envs"]) for run in report["runs"] if run["burst_over_held"] <= 1]
    lines += ["", f"no faster here with {', '.join(slow)} environments" if slow else "faster here with all of these"]
    return "\n".join(lines)
