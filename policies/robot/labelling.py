"""Actions told from frames: a world labels recordings that lack them, or says how well it would.

It does so by its action tokens, where it was given some, with both frames known; else by its head `inverse`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from worldsim.data.episodes import Episodes
from worldsim.data.importing import read_video
from worldsim.errors import InvalidInput
from worldsim.io.files import write_atomically
from worldsim.io.folders import find_world
from worldsim.models.action_tokens import UNKNOWN, ActionTokens, Known
from worldsim.models.registry import StepInputs
from worldsim.models.state_heads import InverseHead
from worldsim.train.actions_task import FILE, load_actions
from worldsim.world import World

HEAD = "inverse"
ROWS = 256  # frames at a time


@dataclass(frozen=True)
class Labels:
    """The actions of a store's episodes as the world tells them, and those that were recorded."""

    told: list[np.ndarray]  # an episode each, (T,) int64 or (T, A) float32; action t led from frame t to frame t + 1
    recorded: list[np.ndarray]

    def score(self) -> dict[str, Any]:
        """How well they fit: "r2" over all, and "r2_each" of each dimension; of discrete actions "accuracy"."""
        told, true = (np.concatenate(part).astype(np.float64) for part in (self.told, self.recorded))
        if true.ndim == 1:
            return {"accuracy": float((told == true).mean()), "actions": len(true)}
        error, spread = np.square(told - true).sum(0), np.square(true - true.mean(0)).sum(0)
        each = [float(1 - e / s) if s > 0 else float("nan") for e, s in zip(error, spread, strict=True)]
        return {"r2": float(1 - error.sum() / spread.sum()), "r2_each": each, "actions": len(true)}


def label_episodes(world: World, store: Episodes, tokens: ActionTokens | None = None) -> Labels:
    """What the world, or its action `tokens`, take the actions of a store's episodes for, from their frames alone.

    Raises InvalidInput for a world without tokens and without the head `inverse`, and for frames of another size.
    """
    check_labeller(world, tokens)
    size = (world.spec.height, world.spec.width)
    if (store.meta.height, store.meta.width) != size:
        raise InvalidInput(
            f"episode store {str(store.path)!r} has frames of {store.meta.height} x {store.meta.width}, world "
            f"{world.spec.name!r} of {size[0]} x {size[1]}; record or import them at this size"
        )
    told, recorded = [], []
    for start, end in _episodes(store):
        told.append(label_frames(world, store.frames(world.config.tokenizer.cameras, start, end), tokens))
        recorded.append(store.read("action", start + 1, end))
    return Labels(told, recorded)


@torch.no_grad()
def label_frames(world: World, frames: np.ndarray, tokens: ActionTokens | None = None) -> np.ndarray:
    """The actions between frames (T + 1, H, W, 3) uint8: (T,) int64 or (T, A) float32, within the world's bounds."""
    check_labeller(world, tokens)
    latents = np.concatenate([world.encode(frames[i : i + ROWS]) for i in range(0, len(frames), ROWS)])
    z, parts = torch.from_numpy(latents).to(world.device), []
    before = torch.cat([z[:1], z[:-1]])
    for i in range(0, len(z) - 1, ROWS):
        rows = slice(i, min(i + ROWS, len(z) - 1))
        previous, new = z[rows], z[i + 1 : rows.stop + 1]
        said = (
            _by_head(world, previous, new) if tokens is None else _by_tokens(world, tokens, before[rows], previous, new)
        )
        parts.append(said.cpu().numpy())
    actions, spec = np.concatenate(parts), world.spec.actions
    return actions if spec.discrete else np.clip(actions, spec.low, spec.high).astype(np.float32)


def _by_head(world: World, previous: Tensor, new: Tensor) -> Tensor:
    """Actions (F, ...) of latents (F, C, h, w) by the head `inverse`."""
    head, previous, new = (
        cast(InverseHead, world.dynamics.heads.each[HEAD]),
        *(z.to(world.dtype) for z in (previous, new)),
    )
    return head.label(world.dynamics.heads.said_of_frames(new, previous, HEAD, _unknown(world, len(new))))


def _by_tokens(world: World, tokens: ActionTokens, before: Tensor, previous: Tensor, new: Tensor) -> Tensor:
    """Actions (F, A) of latents (F, C, h, w) by action tokens, which know both frames and nothing else."""
    count = len(new)
    ones, unknown = torch.ones(count, device=new.device), torch.full((count,), UNKNOWN, device=new.device)
    streams = {name: values for name, values in world.usual_streams(count).items() if name in tokens.config.streams}
    known = Known(previous, before, streams, ones < 0, new, ones, unknown)
    return tokens.draw(known, torch.zeros(count, tokens.numbers_drawn, device=new.device))[:, 0]


def write_labels(world: World, videos: Path, table: Path, tokens: ActionTokens | None = None) -> int:
    """Write the actions of all videos of a folder as a table that `worldsim import` takes; how many they are."""
    if not videos.is_dir() or not (paths := sorted(path for path in videos.iterdir() if path.is_file())):
        raise InvalidInput(f"{str(videos)!r} is no folder of videos; give one that holds some")
    discrete = world.spec.actions.discrete
    columns = ["action"] if discrete else [f"action_{i}" for i in range(len(world.spec.actions.low))]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["file", "step", *columns])
    for path in paths:
        frames = read_video(path, world.spec.height, world.spec.width)
        if len(frames) < 2:
            raise InvalidInput(f"video {str(path)!r} has {len(frames)} frames; give two or more")
        for step, action in enumerate(label_frames(world, frames, tokens)):
            rows.writerow([path.name, step, *np.atleast_1d(action).tolist()])
    write_atomically(table, text.getvalue().encode())
    return len(paths)


def tokens_of(world: World, name: str | Path) -> ActionTokens | None:
    """The action tokens of the world that `name` loads; None where it has none."""
    folder = find_world(name)
    return load_actions(world, folder) if (folder / FILE).exists() else None


def check_labeller(world: World, tokens: ActionTokens | None = None) -> None:
    """Raise InvalidInput for a world that was not trained to tell actions."""
    if tokens is None and HEAD not in world.config.dynamics.output_heads:
        raise InvalidInput(
            f"world {world.spec.name!r} has no action tokens and no head {HEAD!r}, so it cannot tell actions; train "
            "it with that one among its heads"
        )


def _episodes(store: Episodes) -> Iterator[tuple[int, int]]:
    """First row of each episode of two frames or more, and the one past its last."""
    for end, length in zip(store.ends.tolist(), store.lengths.tolist(), strict=True):
        if length > 1:
            yield end - length, end


def _unknown(world: World, rows: int) -> StepInputs:
    """Inputs of steps of which nothing but frames is known."""
    actions = torch.as_tensor(world.spec.actions.lowest(rows), device=world.device)
    zeros = torch.zeros(rows, device=world.device)
    return StepInputs(actions, zeros, zeros.long())
