"""How far a robot's world is off along recorded actions: its numbers, by steps ahead, its success, and how sure it is.

python docs/tools/robot_figures.py WORLD STORE [TRAINING_STORE ...] [--tasks NAME ...] [--seconds 60]

With stores to learn from it also says where the hand is in dreamed frames, as a small network reads it that has learned
from real ones for so long. Of the tasks that are named alone: the first numbers of `proprio` are taken to be the hand.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.data.episodes import Episodes
from worldsim.policies.robot.protocol import SUCCESS
from worldsim.world import World

HORIZONS = (1, 4, 16)
FRAMES = 40  # episodes whose frames are decoded
SURE = ("uncertainty", "unfamiliar")


def episodes_of(store: Episodes, tasks: Sequence[str], count: int | None = None) -> list[dict[str, np.ndarray]]:
    """Episodes of those tasks, or of all, that are as long as most are."""
    names = store.meta.streams["task"].names if "task" in store.streams else ()
    usual = int(np.bincount(store.lengths).argmax())
    found = (store.episode(i) for i in range(len(store)) if store.lengths[i] == usual)
    return list(islice((one for one in found if not tasks or names[int(one["task"][0])] in tasks), count))


def dream_of(
    world: World, episodes: list[dict[str, np.ndarray]], wild: float = 0.0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The streams of episodes, as recorded and as dreamed with the same actions, (E, T, ...).

    What is dreamed has what the info says of its steps, too. The vectors that it begins with are `wild` deviations off.
    """
    usual = len(episodes[0]["action"])
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


def _psnr(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each of frames (E, H, W, 3) uint8, in dB."""
    error = np.square(one.astype(np.float64) - other).mean((1, 2, 3)) / 255**2
    return -10 * np.log10(np.maximum(error, 1e-10))


def _print_frames(world: World, episodes: list[dict[str, np.ndarray]]) -> None:
    """How close frames are by steps ahead, beside copying and the actions of another episode, in dB."""
    frames, actions = (np.stack([one[name] for one in episodes]) for name in ("rgb", "action"))
    given = {name: np.stack([one[name][:1] for one in episodes]) for name in world.spec.streams}
    found: dict[int, list[np.ndarray]] = {h: [_psnr(frames[:, 0], frames[:, h])] for h in HORIZONS}
    for taken in (actions, np.roll(actions, 1, axis=0)):
        state: Any = world.reset(list(range(len(episodes))), frames=frames[:, :1], streams=given)
        for t in range(1, max(HORIZONS) + 1):
            state, step = world.step(state, taken[:, t], decode="frame" if t in HORIZONS else "none")
            if t in HORIZONS:
                found[t].append(_psnr(step.frame, frames[:, t]))
    again = [_psnr(world.decode(torch.from_numpy(world.encode(f))[:, None].to(world.device, world.dtype))[0][:, 0], f)
             for f in (frames[:, h] for h in HORIZONS)]  # fmt: skip
    for h, whole in zip(HORIZONS, again, strict=True):
        copied, dreamed, other = found[h]
        told = [f"{v.mean():.2f} ± {v.std() / len(v) ** 0.5:.2f}" for v in (dreamed, dreamed - copied, dreamed - other)]
        print(
            f"frames, {h} steps: {told[0]} dB, {told[1]} above copying, {told[2]} above the actions of another episode"
        )
        print(f"    the tokenizer alone {whole.mean():.2f} dB")


def hand_reader(shown: list[dict[str, np.ndarray]], seconds: float) -> nn.Module:
    """A network of frames (B, 3, H, W) from 0 to 1 that says where the hand is (B, 3) in metres, from real ones."""
    frames = torch.from_numpy(np.concatenate([one["rgb"] for one in shown])).permute(0, 3, 1, 2)
    hands = torch.from_numpy(np.concatenate([one["proprio"][:, :3] for one in shown]))
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 24), (24, 48), (48, 64)):
        layers += [
            nn.Conv2d(inputs, outputs, 5 if inputs == 3 else 3, stride=2, padding=2 if inputs == 3 else 1),
            nn.SiLU(),
        ]
    net = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(128), nn.SiLU(), nn.Linear(128, 3))
    net(frames[:1].float())  # makes the lazy layer
    optimizer, rng, begin = torch.optim.AdamW(net.parameters(), 1e-3), np.random.default_rng(0), time.process_time()
    mean, std = hands.mean(0), hands.std(0)
    while (used := (time.process_time() - begin) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, 2 - 2 * used)
        rows = torch.from_numpy(rng.integers(len(hands), size=64))
        loss = (net(frames[rows].float() / 255) - (hands[rows] - mean) / std).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    class Read(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return net(images) * std + mean

    return Read()


@torch.no_grad()
def _print_hands(world: World, episodes: list[dict[str, np.ndarray]], reader: nn.Module) -> None:
    """How far the hand in dreamed frames is from the one that the numbers say, and the same of real frames, in cm."""
    frames, actions = (np.stack([one[name] for one in episodes]) for name in ("rgb", "action"))
    given = {name: np.stack([one[name][:1] for one in episodes]) for name in world.spec.streams}
    hands = np.stack([one["proprio"][:, :3] for one in episodes])
    state: Any = world.reset(list(range(len(episodes))), frames=frames[:, :1], streams=given)

    def off(shown: np.ndarray, where: np.ndarray) -> str:
        read = reader(torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255).numpy()
        errors = np.linalg.norm(read - where, axis=1) * 100
        return f"mean {errors.mean():.2f} cm, median {np.median(errors):.2f} cm"

    for t in range(1, max(HORIZONS) + 1):
        state, step = world.step(state, actions[:, t], decode="frame")
        if t in HORIZONS:
            said = world.streams(state)["proprio"][:, :3]
            real = off(frames[:, t], hands[:, t])
            print(f"hand read from frames, {t} steps: dreamed {off(step.frame, said)}; real {real}")


@torch.no_grad()
def _print_all(world: World, episodes: list[dict[str, np.ndarray]]) -> None:
    """Errors in centimetres, precision and recall of success, frames, and how sure the world is."""
    true, said = dream_of(world, episodes)
    print(f"{len(episodes)} episodes, {world.spec.name}")
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
    _print_frames(world, episodes[:FRAMES])
    if SURE[0] in said:
        _print_sure(true, said, dream_of(world, episodes, wild=1.0)[1])


def _print_sure(true: dict[str, np.ndarray], said: dict[str, np.ndarray], wild: dict[str, np.ndarray]) -> None:
    """How well uncertainty tells errors, and what is flagged of a dream and of one from states that cannot be."""
    from scipy.stats import spearmanr

    off = np.linalg.norm(said["object"][:, 1:, :3] - true["object"][:, 1:, :3], axis=2)
    along = np.cumsum(said[SURE[0]], axis=1) / np.arange(1, off.shape[1] + 1)
    told = spearmanr(along, off, axis=None)[0]
    print(f"uncertainty until a step and the object's error there: rank correlation {told:.2f}")
    shares = (one[SURE[1]].mean() for one in (said, wild))
    print("steps flagged as unfamiliar: {:.3f} as recorded, {:.3f} from wild starts".format(*shares))


def main() -> None:
    """Read the arguments and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world")
    parser.add_argument("store")
    parser.add_argument("training", nargs="*")
    parser.add_argument("--tasks", nargs="+", default=[])
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    world, episodes = World.from_pretrained(given.world), episodes_of(Episodes.open(given.store), given.tasks)
    _print_all(world, episodes)
    if given.training:
        shown = [one for path in given.training for one in episodes_of(Episodes.open(path), given.tasks)]
        _print_hands(world, episodes, hand_reader(shown, given.seconds))


if __name__ == "__main__":
    main()
