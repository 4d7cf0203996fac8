"""How far a robot's world is off along recorded actions: its numbers, by steps ahead, and its success.

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


def dream_of(world: World, store: Episodes) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The streams of episodes of one length, as recorded and as dreamed with the same actions, (E, T, ...)."""
    usual = int(np.bincount(store.lengths).argmax())
    episodes = [store.episode(i) for i in range(len(store)) if store.lengths[i] == usual]
    true = {name: np.stack([one[name] for one in episodes]) for name in world.spec.streams}
    frames, actions = (np.stack([one[name] for one in episodes]) for name in ("rgb", "action"))
    given = {name: values[:, :1] for name, values in true.items()}
    state: Any = world.reset(list(range(len(episodes))), frames=frames[:, :1], streams=given)
    said: dict[str, list[np.ndarray]] = {name: [values[:, 0]] for name, values in true.items()}
    for t in range(1, usual):
        state, _ = world.step(state, actions[:, t], decode="none")
        for name, values in world.streams(state).items():
            said[name].append(values)
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


if __name__ == "__main__":
    main(World.from_pretrained(sys.argv[1]), Episodes.open(sys.argv[2]))
