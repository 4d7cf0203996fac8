"""How far a robot's world is off along recorded actions: its numbers, by steps ahead, its success, and how sure it is.

python docs/tools/robot_figures.py WORLD STORE
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from worldsim.data.episodes import Episodes
from worldsim.policies.robot.protocol import SUCCESS
from worldsim.world import World

HORIZONS = (1, 4, 16)
SURE = ("uncertainty", "unfamiliar")


def dream_of(world: World, store: Episodes, wild: float = 0.0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The streams of episodes of one length, as recorded and as dreamed with the same actions, (E, T, ...).

    What is dreamed has what the info says of its steps, too. The vectors that it begins with are `wild` deviations off.
    """
    usual = int(np.bincount(store.lengths).argmax())
    episodes = [store.episode(i) for i in range(len(store)) if store.lengths[i] == usual]
    true = {name: np.stack([one[name] for one in episodes]) for name in world.spec.streams}
    frames, actions = (np.stack([one[name] for one in episodes]) for name in ("rgb", "action"))
    rng, scales = np.random.default_rng(0), world.config.dynamics.scales
    given = {name: values[:, :1] for name, values in true.items()}
    for name in given.keys() & scales.keys():
        off = wild * np.array(scales[name].std) * rng.standard_normal(given[name].shape)
        given[name] = (given[name] + off).astype(np.float32)
    state: Any = world.reset(list(range(len(episodes))), frames=frames[:, :1], streams=given)
    said: dict[str, list[np.ndarray]] = {name: [values[:, 0]] for name, values in true.items()}
    for t in range(1, usual):
        state, step = world.step(state, actions[:, t], decode="none")
        for name, values in {**{n: step.extras[n] for n in SURE if n in step.extras}, **world.streams(state)}.items():
            said.setdefault(name, []).append(values)
    return true, {name: np.stack(values, axis=1) for name, values in said.items()}


@torch.no_grad()
def main(world: World, store: Episodes) -> None:
    """Print a table of errors in centimetres, and precision and recall of success."""
    true, said = dream_of(world, store)
    count = len(true[SUCCESS])
    print(f"{count} episodes of {store.path}, {world.spec.name}")
    for name in ("proprio", "object"):
        for h in HORIZONS:
            off = np.linalg.norm(said[name][:, h, :3] - true[name][:, h, :3], axis=1) * 100
            copied = np.linalg.norm(true[name][:, 0, :3] - true[name][:, h, :3], axis=1) * 100
            errors = f"mean {off.mean():.2f} cm, median {np.median(off):.2f} cm; copying {copied.mean():.2f} cm"
            print(f"{name}, {h} steps: {errors}")
    wanted, found = true[SUCCESS][:, 1:].astype(bool), said[SUCCESS][:, 1:].astype(bool)
    for what, a, b in (("steps", wanted, found), ("episodes", wanted.any(1), found.any(1))):
        both = (a & b).sum()
        print(f"success of {what}: precision {both / max(b.sum(), 1):.3f}, recall {both / max(a.sum(), 1):.3f}")
    if SURE[0] in said:
        _print_sure(true, said, dream_of(world, store, wild=1.0)[1])


def _print_sure(true: dict[str, np.ndarray], said: dict[str, np.ndarray], wild: dict[str, np.ndarray]) -> None:
    """How well uncertainty tells errors, and what is flagged of a dream and of one from states that cannot be."""
    from scipy.stats import spearmanr

    off = np.linalg.norm(said["object"][:, 1:, :3] - true["object"][:, 1:, :3], axis=2)
    along = np.cumsum(said[SURE[0]], axis=1) / np.arange(1, off.shape[1] + 1)
    told = spearmanr(along, off, axis=None)[0]
    print(f"uncertainty until a step and the object's error there: rank correlation {told:.2f}")
    shares = (one[SURE[1]].mean() for one in (said, wild))
    print("steps flagged as unfamiliar: {:.3f} as recorded, {:.3f} from wild starts".format(*shares))


if __name__ == "__main__":
    main(World.from_pretrained(sys.argv[1]), Episodes.open(sys.argv[2]))
