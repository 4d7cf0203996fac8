"""Is a recording the same whoever plays it, what does Ray cost, and what do lost workers and nodes cost?

python docs/tools/cluster_check.py --episodes 64 --kills 10 --json cluster.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.cli.record import Recording
from worldsim.policies.rollouts import Rollouts, Workers, make_rollouts


def play(rollouts: Rollouts[int, dict[str, Any]], episodes: int) -> dict[str, Any]:
    """Play all episodes: a digest of every byte, and rows a second after the first episode has come."""
    digest, rows, begun = hashlib.sha256(), 0, 0.0
    for number, items in enumerate(rollouts.run(range(episodes))):
        for row in items:
            rows += number > 0
            for name in sorted(row):
                digest.update(name.encode() + np.asarray(row[name]).tobytes())
        begun = begun or time.monotonic()
    seconds = time.monotonic() - begun
    return {"sha256": digest.hexdigest(), "rows_per_s": rows / seconds, "replaced": rollouts.replaced}


def killing(kill: Callable[[], None], kills: int, seed: int = 0) -> tuple[threading.Event, threading.Thread]:
    """Calls `kill` at random moments, so many times or until the event is set."""
    done, draw = threading.Event(), random.Random(seed)

    def run() -> None:
        for _ in range(kills):
            if done.wait(draw.uniform(0.5, 6.0)):
                return
            kill()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return done, thread


def kill_a_process(rollouts: Any) -> None:
    """One of the workers, once the last one that was killed has its successor."""
    while rollouts._opening:
        time.sleep(0.1)
    processes = [process for process, _ in rollouts._crew._processes.values()]
    os.kill(random.choice(processes).pid, signal.SIGKILL)


def nodes() -> Iterator[Any]:
    """A Ray cluster of a head without CPUs and two nodes of one CPU each, on this machine."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # as the processes have it that it is compared with
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def kill_a_node(cluster: Any, _: Any) -> None:
    """One of the two, for which another one comes."""
    cluster.remove_node(cluster.workers.pop(0), allow_graceful=False)
    cluster.workers.append(cluster.add_node(num_cpus=1))


def main() -> None:
    """Play the same episodes in all ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="doom-take-cover")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--kills", type=int, default=10, help="of workers, and as many of nodes")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    job, results = Recording(args.source, {}, "mix", 0), {}

    def measure(name: str, workers: Workers, kill: Callable[[Any], None] | None = None) -> None:
        with make_rollouts(job, workers) as rollouts:
            done, thread = threading.Event(), None
            if kill is not None:
                done, thread = killing(lambda: kill(rollouts), args.kills)
            results[name] = play(rollouts, args.episodes)
            done.set()
            if thread is not None:
                thread.join()
        print(f"{name}: {results[name]}", flush=True)

    measure("1 process, this one", Workers())
    measure("2 processes", Workers(2))
    measure("2 processes, killed at random", Workers(2), kill_a_process)
    for cluster in nodes():
        measure("Ray, 2 nodes", Workers(2, ray=cluster.address))
        measure("Ray, 2 nodes, killed at random", Workers(2, ray=cluster.address), partial(kill_a_node, cluster))
    print("the same bytes" if len({one["sha256"] for one in results.values()}) == 1 else "DIFFERENT BYTES")
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
