"""Actions told from frames: a world labels recordings that lack them, or says how well it would.

It does so by action tokens with both frames known, those of its own denoiser or those that it was given; else by its
head `inverse`. A denoiser's own tokens also read the streams of the frame before.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
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
from worldsim.models.acting import UNKNOWN
from worldsim.models.action_tokens import ActionTokens, Known
from worldsim.models.dynamics import Dynamics
from worldsim.models.registry import StepInputs, Streams
from worldsim.models.state_heads import InverseHead
from worldsim.policies.robot.actors import streams_read
from worldsim.sampling.acting import infer_actions
from worldsim.train.actions_task import FILE, load_actions
from worldsim.world import World

HEAD = "inverse"
ROWS = 256  # frames at a time
Tokens = ActionTokens | Dynamics  # a network beside the world, or a world's own, whose denoiser has them


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


def label_episodes(world: World, store: Episodes, tokens: Tokens | None = None) -> Labels:
    """What the world, or its action `tokens`, take the actions of a store's episodes for, from their frames.

    A world's own tokens read the streams of the frame before, too. Raises InvalidInput for a world without tokens and
    without the head `inverse`, for frames of another size, and for a store without these streams.
    """
    check_labeller(world, tokens)
    names = streams_read(world) if isinstance(tokens, Dynamics) else ()
    if missing := [name for name in names if name not in store.streams]:
        raise InvalidInput(
            f"episode store {str(store.path)!r} lacks {', '.join(missing)}, which world {world.spec.name!r} reads; "
            "record them, or label by its head (--by head)"
        )
    size = (world.spec.height, world.spec.width)
    if (store.meta.height, store.meta.width) != size:
        raise InvalidInput(
            f"episode store {str(store.path)!r} has frames of {store.meta.height} x {store.meta.width}, world "
            f"{world.spec.name!r} of {size[0]} x {size[1]}; record or import them at this size"
        )
    told, recorded = [], []
    for start, end in _episodes(store):
        frames = store.frames(world.config.tokenizer.cameras, start, end)
        told.append(label_frames(world, frames, tokens, {name: store.read(name, start, end) for name in names}))
        recorded.append(store.read("action", start + 1, end))
    return Labels(told, recorded)


@torch.no_grad()
def label_frames(
    world: World, frames: np.ndarray, tokens: Tokens | None = None, streams: Mapping[str, np.ndarray] | None = None
) -> np.ndarray:
    """The actions between frames (T + 1, H, W, 3) uint8: (T,) int64 or (T, A) float32, within the world's bounds.

    `streams` (T + 1, ...) came with the frames; a world's own tokens read them, and no others do.
    """
    check_labeller(world, tokens)
    latents = np.concatenate([world.encode(frames[i : i + ROWS]) for i in range(0, len(frames), ROWS)])
    z = torch.from_numpy(latents).to(world.device)
    if isinstance(tokens, Dynamics):
        return _bounded(world, _by_world(world, tokens, z, streams or {}))
    parts = []
    before = torch.cat([z[:1], z[:-1]])
    for i in range(0, len(z) - 1, ROWS):
        rows = slice(i, min(i + ROWS, len(z) - 1))
        previous, new = z[rows], z[i + 1 : rows.stop + 1]
        said = (
            _by_head(world, previous, new) if tokens is None else _by_tokens(world, tokens, before[rows], previous, new)
        )
        parts.append(said)
    return _bounded(world, torch.cat(parts))


def _bounded(world: World, actions: Tensor) -> np.ndarray:
    told, spec = actions.cpu().numpy(), world.spec.actions
    return told if spec.discrete else np.clip(told, spec.low, spec.high).astype(np.float32)


def _by_world(world: World, dynamics: Dynamics, z: Tensor, streams: Mapping[str, np.ndarray]) -> Tensor:
    """Actions (T, A) between the frames of an episode, latents (T + 1, C, h, w), by the world's own denoiser.

    The history goes over as many steps at a time as in training; it does not see actions, so these need not be known.
    """
    assert dynamics.acting is not None
    if missing := [name for name in streams_read(world) if name not in streams]:
        raise InvalidInput(
            f"world {world.spec.name!r} reads {', '.join(missing)} besides frames; label a store that has them, "
            "by its head (--by head), or by a network beside it (worldsim train actions)"
        )
    z, count, parts = z.to(world.dtype), len(z) - 1, []
    for i in range(0, count, dynamics.config.context_length + 1):
        at = torch.arange(i, min(i + dynamics.config.context_length + 1, count), device=z.device)
        rows, none = len(at), torch.zeros(len(at), dtype=torch.bool, device=z.device)
        known = _as_tensors(streams, at)
        features = dynamics(
            z[at][None], z[(at - 1).clamp(min=0)][None], dynamics.acting.usual(rows)[None],
            none[None].float(), at[None], known, known=none,
        )  # fmt: skip
        noise = torch.zeros(rows, dynamics.config.action_tokens, dynamics.config.action_dim, device=z.device)
        parts.append(infer_actions(dynamics, features, z[at], z[at + 1], noise)[:, 0])
    return torch.cat(parts)


def _as_tensors(streams: Mapping[str, np.ndarray], at: Tensor) -> Streams:
    """Some rows of streams (T + 1, ...), as a batch of one clip: (1, rows, ...)."""
    kinds = {True: torch.float32, False: torch.int64}
    tensors = {name: torch.from_numpy(np.asarray(values)) for name, values in streams.items()}
    return {n: v.to(at.device, kinds[v.is_floating_point()])[at][None] for n, v in tensors.items()}


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


def write_labels(world: World, videos: Path, table: Path, tokens: Tokens | None = None) -> int:
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


def tokens_of(world: World, name: str | Path, *, frames_alone: bool = False) -> Tokens | None:
    """The action tokens of the world that `name` loads, its own first; None where it has none.

    With `frames_alone` its own are none where they read more than frames.
    """
    if world.dynamics.acting is not None and not (frames_alone and streams_read(world)):
        return world.dynamics
    folder = find_world(name)
    return load_actions(world, folder) if (folder / FILE).exists() else None


def check_labeller(world: World, tokens: Tokens | None = None) -> None:
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
