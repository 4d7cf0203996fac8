"""Is a recording the same whoever plays it and whoever is lost on the way, and what does Ray cost?

python docs/tools/cluster_check.py --episodes 64 --kills 10 --rounds 6 --json cluster.json
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.cli.record import Recording
from worldsim.policies.rollouts import Rollouts, Workers, make_rollouts

RecordingRollouts = Rollouts[int, dict[str, Any]]


def play(rollouts: RecordingRollouts, episodes: int, kill: Callable[[], None] | None, kills: int) -> dict[str, Any]:
    """Play all episodes, and kill someone when so many of them, drawn at random, have come.

    Gives a digest of every byte, and rows a second after the first episode has come.
    """
    moments = set(random.Random(0).sample(range(episodes - 1), kills)) if kill is not None else set()
    digest, rows, begun = hashlib.sha256(), 0, 0.0
    for number, items in enumerate(rollouts.run(range(episodes))):
        for row in items:
            rows += number > 0
            for name in sorted(row):
                digest.update(name.encode() + np.asarray(row[name]).tobytes())
        begun = begun or time.monotonic()
        if kill is not None and number in moments:
            kill()
    seconds = time.monotonic() - begun
    return {"sha256": digest.hexdigest(), "rows_per_s": rows / seconds, "killed": len(moments)}


def kill_a_process(rollouts: Any) -> None:
    """One of the workers, whatever it does."""
    processes = [process for process, _ in rollouts._crew._processes.values()]
    os.kill(random.choice(processes).pid, signal.SIGKILL)


def patiently(start: Callable[[], Any]) -> Any:
    """What is started; Ray gives a node half a minute, which is too little on a busy machine."""
    for _ in range(4):
        with contextlib.suppress(Exception):
            return start()
    return start()


@contextlib.contextmanager
def nodes() -> Iterator[Any]:
    """A Ray cluster of a head without CPUs and two nodes of one CPU each, on this machine."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # as the processes have it that it is compared with
    import ray
    from ray.cluster_utils import Cluster

    cluster = patiently(
        lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    )
    cluster.workers = [patiently(lambda: cluster.add_node(num_cpus=1)) for _ in range(2)]
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def kill_a_node(cluster: Any) -> None:
    """One of the two, for which another one comes."""
    cluster.remove_node(cluster.workers.pop(random.randrange(2)), allow_graceful=False)
    cluster.workers.append(patiently(lambda: cluster.add_node(num_cpus=1)))


class Check:
    """The job, and what came of it."""

    def __init__(self, source: str, episodes: int, kills: int) -> None:
        self.job, self.episodes, self.kills = Recording(source, {}, "mix", 0), episodes, kills
        self.results: dict[str, Any] = {}

    def measure(self, name: str, workers: Workers, kill: Callable[[Any], None] | None = None) -> None:
        """Play the episodes in one way; `kill` is told of the workers."""
        with make_rollouts(self.job, workers) as rollouts:
            killer = None if kill is None else lambda: kill(rollouts)
            result = {**play(rollouts, self.episodes, killer, self.kills), "replaced": rollouts.replaced}
        self.results[name] = result
        print(f"{name}: {result}", flush=True)

    def compare(self, one: Workers, other: Workers, rounds: int) -> None:
        """Rows a second of two kinds of workers, in turns."""
        with make_rollouts(self.job, one) as first, make_rollouts(self.job, other) as second:
            pairs = [
                tuple(play(rollouts, self.episodes, None, 0)["rows_per_s"] for rollouts in (first, second))
                for _ in range(rounds)
            ]
        ratios = sorted(after / before for before, after in pairs)
        self.results["processes and Ray, rows/s"] = {"rounds": pairs, "median_ratio": float(np.median(ratios))}
        print(f"Ray over processes, {rounds} rounds in turns: {np.median(ratios):.3f} times the rows a second "
              f"[{ratios[0]:.3f}, {ratios[-1]:.3f}]", flush=True)  # fmt: skip


def main() -> None:
    """Play the same episodes in all ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="doom-take-cover")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--kills", type=int, default=10, help="of workers, and as many of nodes; fewer than episodes")
    parser.add_argument("--rounds", type=int, default=0, help="in which processes and Ray are timed in turns")
    parser.add_argument("--only-ray", action="store_true", help="leave out the processes")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    check = Check(args.source, args.episodes, args.kills)
    check.measure("1 process, this one", Workers())
    if not args.only_ray:
        check.measure("2 processes", Workers(2))
        check.measure("2 processes, killed at random", Workers(2), kill_a_process)
    with nodes() as cluster:
        there = Workers(2, ray=cluster.address)
        check.measure("Ray, 2 nodes", there)
        if args.rounds:
            check.compare(Workers(2), there, args.rounds)
        check.measure("Ray, 2 nodes, killed at random", there, lambda _: kill_a_node(cluster))
    digests = {one["sha256"] for one in check.results.values() if "sha256" in one}
    print("the same bytes" if len(digests) == 1 else "DIFFERENT BYTES")
    if args.json is not None:
        args.json.write_text(json.dumps(check.results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
