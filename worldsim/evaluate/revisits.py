"""What a world still knows of places that it comes back to: the revisit benchmark.

A dream reads some real frames of a recorded way, goes on with the recorded actions, and is compared with the real
frames where the recorded way comes back to what the dream had been shown. Beside it stands the same world with its
memories not read, each with the poses that it foresees itself and with the true ones. A panel of frames that show
nothing seen before tells whether memory hurts there, and pairs of frames of one view that were both generated tell
whether what the world invents stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput
from worldsim.evaluate.data import Span, shown_spans
from worldsim.evaluate.dreams import Dreams, decode, encode
from worldsim.evaluate.metrics import gradient, interval, mean_square_error, psnr
from worldsim.io.text import table
from worldsim.models.registry import Streams
from worldsim.world import World

AWAY = 2.0  # times `near` that a way must lead off before it counts as a return
SAME = 0.5  # of `near` and `turn`: two generated frames this close show the same view
SHOWN = 4  # ways on the contact sheet


@dataclass(frozen=True)
class Returns:
    """What counts as a return, and how many are measured."""

    gaps: tuple[int, ...] = (50, 150, 400)  # steps from the last real frame to the return; up to a fifth more or less
    clips: int = 16  # ways of each gap
    context: int = 32  # real frames that are shown first
    near: float = 40.0  # units of the pose, and
    turn: float = 0.35  # radians, within which a frame shows what another one did
    seed: int = 0
    pose: str = "pose"  # stream of poses (x, y, z, yaw)
    kinds: bool = False  # also measure each of several memories alone, with own poses


@dataclass(frozen=True)
class Setting:
    """One of the ways in which the benchmark dreams."""

    world: World
    true_pose: bool  # given at every step, instead of what the world foresees


@dataclass(frozen=True)
class Way:
    """Rows of a store: real ones first, and the row of the return."""

    first: int
    age: int
    back: int  # row, counted from `first`, that shows again what a row of the context did


def find_ways(store: Episodes, gap: int, sizes: Returns) -> list[Way]:
    """Ways that come back about `gap` steps after the context, spread over the episodes; none where there are none."""
    found: list[list[Way]] = []
    rng = np.random.default_rng([sizes.seed, gap])
    for span in shown_spans(store):
        poses = store.read(sizes.pose, span.start, span.stop)
        starts = rng.permutation(max(len(span) - sizes.context - int(0.8 * gap), 0))[:60]
        ways = [way for start in starts if (way := _way(span, poses, int(start), gap, sizes)) is not None]
        found.append(ways)
    most = max((len(ways) for ways in found), default=0)
    return [ways[k] for k in range(most) for ways in found if k < len(ways)][: sizes.clips]


def _way(span: Span, poses: np.ndarray, start: int, gap: int, sizes: Returns) -> Way | None:
    """The way from a row that comes back nearest to `gap` steps after its context, if it leads off in between."""
    shown = poses[start : start + sizes.context]
    first = start + sizes.context
    low, high = first + max(int(0.8 * gap), 1) - 1, min(first + int(1.2 * gap), len(poses))
    for row in sorted(range(low, high), key=lambda row: abs(row - first + 1 - gap)):
        if not _near(shown, poses[row], sizes).any():
            continue
        seen = _near(poses[first:row], poses[row], sizes)
        off = np.linalg.norm(poses[first:row, :2] - poses[row, :2], axis=-1).max(initial=0)
        turned = np.abs(_angle(poses[first:row, 3] - poses[row, 3])).max(initial=0)
        if (off > AWAY * sizes.near or turned > 1.6) and seen[: max(len(seen) // 2, 1)].mean() < 0.5:
            return Way(span.start + start, start, row - start)
    return None


def _angle(turn: np.ndarray) -> np.ndarray:
    return (turn + np.pi) % (2 * np.pi) - np.pi


def _near(poses: np.ndarray, pose: np.ndarray, sizes: Returns, share: float = 1.0) -> np.ndarray:
    """Which of poses (T, 4) see about what another one (4,) sees."""
    far = np.linalg.norm(poses[:, :2] - pose[:2], axis=-1)
    return (far < share * sizes.near) & (np.abs(_angle(poses[:, 3] - pose[3])) < share * sizes.turn)


def measure_returns(world: World, store: Episodes, sizes: Returns) -> tuple[dict[str, Any], list[np.ndarray]]:
    """All figures, and rows of frames for a contact sheet: real, then of each setting.

    Raises InvalidInput for a store without poses, and where no recorded way comes back.
    """
    if sizes.pose not in store.streams:
        raise InvalidInput(f"episode store {str(store.path)!r} has no stream {sizes.pose!r}; record one with poses")
    gaps, sheet = {}, []
    for gap in sizes.gaps:
        ways = find_ways(store, gap, sizes)
        if ways:
            gaps[str(gap)], rows = _measure(world, store, ways, sizes)
            sheet += rows
    if not gaps:
        raise InvalidInput(
            f"no way of episode store {str(store.path)!r} comes back after {' or '.join(map(str, sizes.gaps))} steps; "
            "record longer episodes with a policy that returns"
        )
    return {"returns": gaps, "context": sizes.context, "near": sizes.near, "turn": sizes.turn}, sheet


def _measure(
    world: World, store: Episodes, ways: Sequence[Way], sizes: Returns
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The figures of one gap."""
    steps = max(way.back for way in ways) + 1
    rows = [np.minimum(np.arange(w.first, w.first + steps), w.first + w.back) for w in ways]
    clip = {name: np.stack([_rows(store, name, r) for r in rows]) for name in store.streams if name != "between"}
    real = clip["rgb"][:, sizes.context :]
    back = np.array([w.back - sizes.context for w in ways])
    at = np.arange(len(ways)), back
    ceiling = decode(world, encode(world, real[at][:, None]))[:, 0]
    frozen = clip["rgb"][:, sizes.context - 1]
    figures: dict[str, Any] = {"ways": len(ways), "steps": float((back + 1).mean())}
    figures["tokenizer"], figures["frozen frame"] = _score(real[at], ceiling), _score(real[at], frozen)
    dreamed, costs = {}, {}
    for name, setting in _settings(world, sizes).items():
        dreamed[name], costs[name] = _dream(setting, clip, sizes)
    new = _new_rows(clip[sizes.pose], back, sizes)
    pairs = _pairs(clip[sizes.pose][:, sizes.context :], back, sizes)
    for name, frames in dreamed.items():
        figures[name] = _score(real[at], frames[at]) | costs[name]
        figures[name]["new places"] = _mean_psnr(real[new], frames[new])
        figures[name]["sharpness"] = float(gradient(frames[new]).mean() / gradient(real[new]).mean())
        figures[name]["generated twice"] = _mean_psnr(*(frames[pairs[0], p] for p in pairs[1:]))
    figures["real twice"] = _mean_psnr(*(real[pairs[0], p] for p in pairs[1:]))
    figures["pairs"] = len(pairs[0])
    sheet = []
    for k in range(min(SHOWN, len(ways))):
        picks = np.unique(np.linspace(0, back[k], 7).astype(int))
        last = clip["rgb"][k, sizes.context - 1][None]
        sheet += [np.concatenate([last, frames[k, picks]]) for frames in (real, *dreamed.values())]
    return figures, sheet


def _settings(world: World, sizes: Returns) -> dict[str, Setting]:
    """What is compared, by name: all that the world remembers, each kind alone, and nothing read."""
    kinds, found = world.config.dynamics.memories, {}
    if kinds:
        found = {"memory, true pose": Setting(world, True), "memory, own pose": Setting(world, False)}
    if sizes.kinds and len(kinds) > 1:
        found |= {f"{kind} alone": Setting(world.with_memories(kind), False) for kind in kinds}
    unread = world.with_sampling(replace(world.sampling, memory=False))
    return found | {"no memory": Setting(unread, False)}


def _rows(store: Episodes, name: str, rows: np.ndarray) -> np.ndarray:
    """Successive rows of a stream, of which the last may be repeated."""
    read = store.read(name, int(rows[0]), int(rows[-1]) + 1)
    return read[rows - rows[0]]


def _dream(setting: Setting, clip: dict[str, np.ndarray], sizes: Returns) -> tuple[np.ndarray, dict[str, float]]:
    """Frames (N, steps - context, H, W, 3) of dreams along the ways, and what a step of one of them costs."""
    world, true = setting.world, setting.true_pose
    context, rgb = sizes.context, clip["rgb"]
    carried = [name for name in world.spec.streams if name in clip]
    carried = [name for name in carried if name not in world.dynamics.heads.streams_read_off]
    streams = {name: torch.from_numpy(clip[name]).to(world.device) for name in carried}
    known: Streams = {name: values[:, : context if true else 1] for name, values in streams.items()}
    actions, seeds = clip["action"], range(sizes.seed, sizes.seed + len(rgb))
    beginning, ages = encode(world, rgb[:, :context]), np.zeros(len(rgb), np.int64)
    dreams, latents = Dreams(world, beginning, actions[:, 1:context], ages, seeds, known), []
    begin = time.perf_counter()
    for t in range(context, rgb.shape[1]):
        given = {name: values[:, t] for name, values in streams.items()} if true else None
        latents.append(dreams.step(actions[:, t], given).latents[:, 0])
    ms = 1000 * (time.perf_counter() - begin) / (len(latents) * len(rgb))
    cost = {"ms a step": ms, "MB": dreams.memory_bytes / len(rgb) / 2**20}
    return decode(world, torch.stack(latents, 1)), cost


def _score(real: np.ndarray, frames: np.ndarray) -> dict[str, Any]:
    """PSNR of frames (N, H, W, 3), as a mean over ways with its interval."""
    each = np.array([psnr(error) for error in mean_square_error(real, frames)])
    return {"psnr": float(each.mean()), "psnr_ci": interval(lambda i: float(each[i].mean()), len(each))}


def _mean_psnr(one: np.ndarray, other: np.ndarray) -> float:
    """NaN where there is none."""
    return float(np.mean([psnr(e) for e in mean_square_error(one, other)])) if len(one) else float("nan")


def _new_rows(poses: np.ndarray, back: np.ndarray, sizes: Returns, most: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Rows of dreams, soon after the context, that show what no row before did: indices into (N, steps)."""
    ways, rows = [], []
    wide = replace(sizes, near=1.5 * sizes.near, turn=2 * sizes.turn)
    for k in range(len(poses)):
        for t in range(min(most, int(back[k]))):
            row = sizes.context + t
            if not _near(poses[k, : sizes.context], poses[k, row], wide).any():
                ways.append(k)
                rows.append(t)
    if not ways:  # all was seen before: the rows soon after the context
        ways, rows = list(range(len(poses))), [0] * len(poses)
    return np.array(ways), np.array(rows)


def _pairs(poses: np.ndarray, back: np.ndarray, sizes: Returns, apart: int = 25) -> tuple[np.ndarray, ...]:
    """Of each way the two generated rows farthest apart in time that show one view: ways, earlier rows, later rows."""
    found = []
    for k in range(len(poses)):
        best = (apart, 0, 0)
        for late in range(apart, int(back[k]) + 1, 2):
            early = np.flatnonzero(_near(poses[k, : late - apart], poses[k, late], sizes, SAME))
            if len(early) and late - early[0] > best[0]:
                best = (late - int(early[0]), int(early[0]), late)
        if best[0] > apart:
            found.append((k, best[1], best[2]))
    array = np.array(found, np.int64).reshape(-1, 3)
    return array[:, 0], array[:, 1], array[:, 2]


def format_returns(report: dict[str, Any]) -> str:
    """The figures as a table in plain text."""
    heads = ("return after", "of", "PSNR", "95 %", "new places", "sharpness", "generated twice", "ms a step", "MB")
    lines = []
    for gap, figures in report["returns"].items():
        for name, score in figures.items():
            if not isinstance(score, dict):
                continue
            low, high = score["psnr_ci"]
            more = [f"{score[key]:.2f}" if key in score else "" for key in heads[4:]]
            span = f"{low:.1f} to {high:.1f}"
            lines.append([f"{gap} steps ({figures['ways']} ways)", name, f"{score['psnr']:.2f}", span, *more])
        twice = f"{figures['real twice']:.2f} ({figures['pairs']} pairs)"
        lines.append([f"{gap} steps", "real frames", "", "", "", "1.00", twice, "", ""])
    return table(heads, lines)
