"""Latents of whole episode stores, computed once and kept beside the run as memory-mapped arrays."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldsim.data.augment import Streams, augment
from worldsim.data.episodes import REQUIRED_STREAMS, Episodes
from worldsim.data.events import EventSpec, find_events
from worldsim.data.latent_shards import clear, make_together
from worldsim.errors import DamagedCheckpoint, InvalidInput
from worldsim.io.files import read_json, write_json
from worldsim.models.tokenizer import Tokenizer, TokenizerConfig, to_images
from worldsim.runtime.devices import autocast_dtype, choose_device
from worldsim.train.checkpoint import load_checkpoint, setting

ROWS = 64  # encoded at a time
LATENTS, DONE = "latents.npy", "done.json"  # the second one is written last


@dataclass(frozen=True)
class LatentEpisodes:
    """An episode store as the dynamics sees it; T rows, as in the store."""

    latents: np.ndarray  # (T, 1 + between, C, h, w) float16: the frame, then the frames before it, oldest first
    actions: np.ndarray  # (T,) int64 or (T, A) float32
    rewards: np.ndarray  # (T,) float32
    terminated: np.ndarray  # (T,) bool
    event: np.ndarray  # (T,) bool, an ending or a precursor event
    ends: np.ndarray  # (episodes,) int64
    store: Episodes
    streams: dict[str, np.ndarray] = field(default_factory=dict)  # (T, ...), as recorded, of those that are learned


def load_tokenizer(run: Path, device: str = "auto") -> Tokenizer:
    """The averaged weights of the tokenizer trained in a run folder; raises DamagedCheckpoint, InvalidInput if none."""
    path = run / "tokenizer.safetensors"
    if not path.exists():
        raise InvalidInput(f"{path} does not exist; run `worldsim train tokenizer --out {run}` first")
    tensors, meta = load_checkpoint(path)
    tokenizer = Tokenizer(setting(path, meta, "model", TokenizerConfig))
    prefix = "average.tokenizer."
    weights = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
    try:
        tokenizer.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise DamagedCheckpoint(
            f"checkpoint {path} does not fit its own settings ({' '.join(str(error).split())}); restore it from a copy"
        ) from error
    return tokenizer.to(choose_device(device), memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]


def weights_digest(tokenizer: Tokenizer) -> str:
    """A short name for these very weights."""
    digest = hashlib.sha256()
    for tensor in tokenizer.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.no_grad()
def encode_frames(tokenizer: Tokenizer, frames: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> latents (B, C, h, w) float32."""
    device = next(tokenizer.parameters()).device
    dtype = autocast_dtype(device)
    images = to_images(torch.from_numpy(frames).to(device)).contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return tokenizer.encode(images).float()


def cache_latents(
    tokenizer: Tokenizer, store: Episodes, run: Path, device: str = "auto",
    *, events: Sequence[EventSpec] = (), augmentation: str | None = None, streams: Sequence[str] = (),
) -> LatentEpisodes:  # fmt: skip
    """Encode a store, or open what an earlier call encoded with the same tokenizer from the same rows.

    What is kept is read once to compare its checksum; where it is not whole it is computed anew, and stderr says so.

    `events` come before endings; `augmentation` names one that the episodes are seen through; `streams` names the
    recorded vectors and tokens that come with them. The processes of a torchrun share the work, on one machine or on
    several with a common disk (`worldsim.data.latent_shards`). Raises InvalidInput for variables and streams that the
    store does not have and for augmentations that its source does not declare.
    """
    event, rows = find_events(store, events), store.num_steps
    actions = store.read("action", 0, rows)
    if augmentation is not None:
        actions = augment(augmentation, store.meta, {"action": actions})["action"]
    made_of = {
        "rows": rows, "store": _rows_digest(store), "tokenizer": weights_digest(tokenizer),
        "augmentation": augmentation,
    }  # fmt: skip
    name = f"{store.path.name}-{made_of['tokenizer']}-{rows}"
    folder = run / "latents" / (name if augmentation is None else f"{name}-{augmentation}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not _is_whole(folder, made_of):
        if folder.exists():
            tqdm.write(f"the latents in {folder} are not whole, or of another store: computing them", file=sys.stderr)
        _encode_store(tokenizer, store, folder, made_of)
    return LatentEpisodes(
        latents=np.load(folder / LATENTS, mmap_mode="r"),
        actions=actions,
        rewards=store.read("reward", 0, rows),
        terminated=store.read("terminated", 0, rows),
        event=event,
        ends=store.ends,
        store=store,
        streams=read_streams(store, streams),
    )


def read_streams(store: Episodes, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Recorded vectors and tokens, (T, ...).

    Raises InvalidInput for one that is absent, of another kind, or not finite.
    """
    known = [name for name, spec in store.meta.streams.items() if spec.kind in ("vector", "token")]
    known = [name for name in known if name not in REQUIRED_STREAMS]
    values = {}
    for name in names:
        if name not in known:
            raise InvalidInput(
                f"episode store {store.path} has no vector or token {name!r}; it has {', '.join(known) or 'none'}"
            )
        values[name] = store.read(name, 0, store.num_steps)
        if not np.isfinite(values[name]).all():
            raise InvalidInput(f"stream {name!r} of episode store {store.path} is not finite; record it again")
    return values


def _rows_digest(store: Episodes) -> str:
    """Tells apart stores of one name and length, such as `a/data` and `b/data`."""
    ends = np.ascontiguousarray(store.ends, np.int64).tobytes()
    return hashlib.sha256(json.dumps(store.meta.to_json(), sort_keys=True).encode() + ends).hexdigest()[:12]


def _is_whole(folder: Path, made_of: dict[str, Any]) -> bool:
    """Whether latents of just this are there and have the checksum that was noted; caches of old have none."""
    try:
        note = read_json(folder / DONE)
        same = isinstance(note, dict) and note == {**made_of, "sha256": note.get("sha256")}
        return same and note["sha256"] == _file_digest(folder / LATENTS)
    except (OSError, ValueError):
        return False


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encode_store(tokenizer: Tokenizer, store: Episodes, folder: Path, made_of: dict[str, Any]) -> None:
    augmentation, between = made_of["augmentation"], "between" in store.streams
    named = f"latents of {store.path.name}" + (f", {augmentation}" if augmentation else "")
    bar = tqdm(desc=named, unit="row", unit_scale=True, total=store.num_steps)

    def make(first: int, last: int) -> np.ndarray:
        parts = []
        for start in range(first, last, ROWS):
            stop = min(start + ROWS, last)
            streams: Streams = {"rgb": store.frames(tokenizer.config.cameras, start, stop)}
            if between:
                streams["between"] = store.read("between", start, stop)
            if augmentation is not None:
                streams = augment(augmentation, store.meta, streams)
            frames = streams["rgb"][:, None]  # (B, 1 + between, H, W, 3)
            if between:
                frames = np.concatenate([frames, streams["between"]], axis=1)
            encoded = encode_frames(tokenizer, frames.reshape(-1, *frames.shape[2:])).cpu().numpy()
            parts.append(encoded.reshape(stop - start, -1, *encoded.shape[1:]).astype(np.float16))
            bar.update(stop - start)
        return np.concatenate(parts)

    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
    shards = folder.with_name(f"{folder.name}.{digest}.shards")
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    with bar:
        if make_together(
            folder / LATENTS, shards, store.num_steps, make, lambda: _is_whole(folder, made_of), rank=rank, world=world
        ):
            write_json(folder / DONE, {**made_of, "sha256": _file_digest(folder / LATENTS)})
            clear(shards)
