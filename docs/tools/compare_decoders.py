"""Two worlds that differ in their decoder: PSNR on held-out frames, and steps a second, in turns.

python docs/tools/compare_decoders.py doom-take-cover runs/light/world --data data/take-cover-held-out
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.bench.steps import Endless, machine, step_gflop, time_steps
from worldsim.cli.bench import make_env
from worldsim.data.episodes import Episodes
from worldsim.evaluate.dreams import decode, encode
from worldsim.evaluate.metrics import psnr, square_error
from worldsim.world import World

ROWS = 64  # read at a time
WARM_UP = 40  # steps, after which the history is full


def errors(worlds: list[World], store: Episodes, rows: int) -> np.ndarray:
    """Mean square error of every frame of the first rows, those between rows included: (worlds, frames)."""
    found: list[list[np.ndarray]] = [[] for _ in worlds]
    rows = min(rows, store.num_steps)
    for start in range(0, rows, ROWS):
        stop = min(start + ROWS, rows)
        frames = store.read("rgb", start, stop)
        if "between" in store.streams:
            between = store.read("between", start, stop)
            frames = np.concatenate([frames, between.reshape(-1, *between.shape[2:])])
        latents = encode(worlds[0], frames)  # of either: they share the encoder
        for row, world in enumerate(worlds):
            error = square_error(frames, decode(world, latents))
            found[row].append(error.reshape(len(frames), -1).mean(1))
    return np.stack([np.concatenate(one) for one in found])


def likeness(worlds: list[World], count: int = 16, steps: int = 100) -> float:
    """PSNR in dB between what the two make of the same dreamed latents, of random actions."""
    rng, state, found = np.random.default_rng(0), worlds[0].reset(range(count)), []
    for _ in range(steps):
        actions = np.stack([worlds[0].spec.actions.draw(rng) for _ in range(count)])
        state, _ = worlds[0].step(state, actions, decode="none")
        one, other = (decode(world, state.past[:, 0]) for world in worlds)
        found.append(square_error(one, other).mean())
    return float(psnr(np.mean(found)))


def rates(worlds: list[World], count: int, steps: int, rounds: int) -> np.ndarray:
    """Steps a second of `count` environments of each world, in turns: (worlds, rounds)."""
    envs = [make_env(Endless(world), count) for world in worlds]
    found = [[count / np.median(time_steps(env, WARM_UP, steps)) for env in envs] for _ in range(rounds)]
    return np.array(found).T


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs=2, help="before and after")
    parser.add_argument("--data", type=Path, required=True, help="an episode store that neither was trained on")
    parser.add_argument("--rows", type=int, default=10**9, help="of the store, at most")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--steps", type=int, default=100, help="timed in every round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--compiled", action="store_true", help="time compiled worlds, too")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    worlds = [World.from_pretrained(name) for name in args.worlds]
    error = errors(worlds, Episodes.open(args.data), args.rows)
    pooled = [psnr(float(one)) for one in error.mean(1)]
    by_frame = (10 * np.log10(1 / np.maximum(error, 1e-10))).mean(1)
    results: dict[str, Any] = {
        "machine": machine(worlds[0]), "frames": error.shape[1], "psnr": pooled,
        "psnr_mean_of_frames": by_frame.tolist(), "likeness_in_dreams": likeness(worlds),
    }  # fmt: skip
    print(f"PSNR of {error.shape[1]} frames: {pooled[0]:.2f} and {pooled[1]:.2f} dB; mean of frames "
          f"{by_frame[0]:.2f} and {by_frame[1]:.2f} dB; of each other in dreams "
          f"{results['likeness_in_dreams']:.2f} dB")  # fmt: skip
    for count in args.num_envs:
        gflop = [step_gflop(world, count) / count for world in worlds]
        timed = {"": worlds} | ({", compiled": [w.compiled(count) for w in worlds]} if args.compiled else {})
        for how, served in timed.items():
            rate = np.median(rates(served, count, args.steps, args.rounds), axis=1)
            results[f"{count} environments{how}"] = {"steps_per_s": rate.tolist(), "gflop_per_step": gflop}
            print(f"{count} environments{how}: {rate[0]:.0f} and {rate[1]:.0f} steps/s, {rate[1] / rate[0]:.2f} times; "
                  f"{gflop[0]:.3f} and {gflop[1]:.3f} GFLOP a step")  # fmt: skip
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
