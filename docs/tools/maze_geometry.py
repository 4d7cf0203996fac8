"""What geometry alone remembers of mazes: guides from true depth and pose against the real frames. No learning.

python docs/tools/maze_geometry.py data/maze-test --steps 400
"""

from __future__ import annotations

import argparse
import platform
import time
from collections import defaultdict

import numpy as np
import torch

from worldsim.data.episodes import Episodes
from worldsim.memory import posed
from worldsim.memory.geometry import Camera, Views, apart, choose, coverage, render
from worldsim.memory.keyframes import COARSE, fill

FOCAL = (0.5, 0.8)
OLD = 40  # steps
KINDS = {"copy of the last frame": None, "last frame": 0, "last frame, 2 keyframes": 2, "last frame, 4 keyframes": 4}


def psnr(real: np.ndarray, guide: np.ndarray) -> float:
    return float(10 * np.log10(1 / max(np.square(real - guide).mean(), 1e-10)))


def chosen(camera: Camera, tree: posed.Posed, pose: torch.Tensor, count: int, before: int) -> Views:
    """The best `count` keyframes seen before that step, and the last frame where it is."""
    there = posed.kept(tree) & (tree["step"].gather(1, tree["keys"]) < before)
    half, rows = COARSE // 2, torch.zeros(1, 1, dtype=torch.int64)
    depth = tree["depth"][rows, tree["keys"], half::COARSE, half::COARSE].float()
    cover = coverage(camera.coarse(COARSE), depth, tree["pose"][rows, tree["keys"]], there, pose)
    index, enough = choose(cover, max(count, 1))
    slots, worth = tree["keys"].gather(1, index), enough.float() * (count > 0)
    if before > int(tree["step"].max()):
        slots = torch.cat([slots, tree["last"][:, None]], 1)
        worth = torch.cat([worth, torch.full((1, 1), 0.5)], 1)
    return posed.views(tree, slots, worth)


def main(path: str, steps: int = 600, off: float = 0.0, shift: float = 0.0) -> None:
    """Print one line for each kind of guide: frames that revisit, those that do not."""
    store, found, spent = Episodes.open(path), defaultdict(list), 0.0
    rng = torch.Generator().manual_seed(0)
    for index in range(len(store)):
        episode = store.episode(index)
        rgb = torch.from_numpy(episode["rgb"][:steps]).permute(0, 3, 1, 2)
        depth, poses = torch.from_numpy(episode["depth"][:steps]).float(), torch.from_numpy(episode["pose"][:steps])
        camera, gate = Camera(*rgb.shape[2:], FOCAL), posed.Gate()
        tree = posed.empty(gate, camera, 1)
        for t in range(len(rgb) - 1):
            seen = depth[t] * torch.exp(off * torch.randn((), generator=rng))
            at = poses[t] + shift * torch.randn(4, generator=rng) * torch.tensor([1, 1, 0, 0.0])
            tree = posed.write(gate, tree, rgb[t : t + 1], seen[None], at[None], torch.tensor([t]))
            if t % 4:
                continue
            pose, real = poses[t + 1][None], rgb[t + 1].numpy() / 255
            far, turned = apart(poses[: max(t + 1 - OLD, 0)], pose)
            again = "revisit" if bool(((far < 40) & (turned < 0.35)).any()) else "new"
            for name, count in KINDS.items():
                if count is None:
                    found[name, again].append((psnr(real, rgb[t].numpy() / 255), 1.0))
                    continue
                begin = time.perf_counter()
                frames, mask, *_ = render(camera, chosen(camera, tree, pose, count, t + 1), pose)
                spent += time.perf_counter() - begin if count == 4 else 0
                found[name, again].append((psnr(real, fill(frames, mask)[0].numpy()), float(mask.mean())))
            if again == "revisit":
                frames, mask, *_ = render(camera, chosen(camera, tree, pose, 4, t + 1 - OLD), pose)
                on = mask[0].numpy() > 0
                exact = psnr(real[:, on], frames[0].numpy()[:, on]) if on.any() else 0.0
                found[f"keyframes {OLD} steps old, where known", again].append((exact, float(mask.mean())))
    print(f"{path}, {len(store)} episodes of {steps} steps; depth off by {off:.0%}, pose by {shift} units")
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread(s)")
    for (name, again), rows in sorted(found.items()):
        values = np.array(rows)
        print(f"{name:40s} {again:8s} n={len(rows):5d} PSNR {values[:, 0].mean():5.2f} dB on {values[:, 1].mean():.0%}")
    drawn = sum(len(rows) for (name, _), rows in found.items() if "4 keyframes" in name)
    print(f"recall and warp, 4 keyframes: {1000 * spent / drawn:.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="recorded with `worldsim record doom-maze-test`")
    parser.add_argument("--steps", type=int, default=600, help="of each episode")
    parser.add_argument("--depth-off", type=float, default=0.0, help="share by which depths of a frame are off")
    parser.add_argument("--pose-off", type=float, default=0.0, help="map units by which poses are off")
    args = parser.parse_args()
    main(args.store, args.steps, args.depth_off, args.pose_off)
