"""Latents of whole episode stores, computed once and kept beside the run as memory-mapped arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldsim.data.augment import Streams, augment
from worldsim.data.episodes import Episodes
from worldsim.data.events import EventSpec, find_events
from worldsim.data.stream_cache import Encoders, cached_in_shards, read_streams, rows_digest
from worldsim.errors import DamagedCheckpoint, InvalidInput
from worldsim.models.tokenizer import Tokenizer, TokenizerConfig, to_images
from worldsim.runtime.devices import autocast_dtype, choose_device
from worldsim.train.checkpoint import load_checkpoint, setting

ROWS = 64  # encoded at a time


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
    streams: dict[str, np.ndarray] = field(default_factory=dict)  # (T, ...) of those that are learned, encoded or plain
    contexts: dict[str, np.ndarray] = field(default_factory=dict)  # (T, ...), "MEMORY.guide", "MEMORY.mask" at each row


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
    encoders: Encoders | None = None,
) -> LatentEpisodes:  # fmt: skip
    """Encode a store, or open what an earlier call encoded with the same tokenizer from the same rows.

    What is kept is read once to compare its checksum; where it is not whole it is computed anew, and stderr says so.

    `events` come before endings; `augmentation` names one that the episodes are seen through; `streams` names the
    recorded streams that come with them, of which `encoders` encode those that are no vectors and tokens
    (`worldsim.data.stream_cache`). The processes of a torchrun share the work, on one machine or on several with a
    common disk. Raises InvalidInput for variables and streams that the store does not have and for augmentations that
    its source does not declare.
    """
    event, rows = find_events(store, events), store.num_steps
    actions = store.read("action", 0, rows)
    if augmentation is not None:
        actions = augment(augmentation, store.meta, {"action": actions})["action"]
    made_of = {
        "rows": rows, "store": rows_digest(store), "tokenizer": weights_digest(tokenizer),
        "augmentation": augmentation,
    }  # fmt: skip
    name = f"{store.path.name}-{made_of['tokenizer']}-{rows}"
    folder = run / "latents" / (name if augmentation is None else f"{name}-{augmentation}")
    encode = _encoder(tokenizer, store, augmentation)
    return LatentEpisodes(
        latents=cached_in_shards(folder, made_of, rows, encode),
        actions=actions,
        rewards=store.read("reward", 0, rows),
        terminated=store.read("terminated", 0, rows),
        event=event,
        ends=store.ends,
        store=store,
        streams=read_streams(store, streams, run=run, encoders=encoders, augmentation=augmentation),
    )


def latent_range(episodes: LatentEpisodes) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest latent of each channel, (C,) float32 each."""
    latents, low, high = episodes.latents, [], []
    for start in range(0, len(latents), 4096):  # the array may be larger than memory
        part = np.asarray(latents[start : start + 4096], np.float32)
        low.append(part.min((0, 1, 3, 4)))
        high.append(part.max((0, 1, 3, 4)))
    return np.min(low, axis=0), np.max(high, axis=0)


def _encoder(tokenizer: Tokenizer, store: Episodes, augmentation: str | None) -> Callable[[int, int], np.ndarray]:
    """What encodes rows [start, stop) of a store: -> (rows, 1 + between, C, h, w) float16."""
    between = "between" in store.streams
    named = f"latents of {store.path.name}" + (f", {augmentation}" if augmentation else "")

    def encode(first: int, last: int) -> np.ndarray:
        parts = []
        for start in tqdm(range(first, last, ROWS), desc=named, unit_scale=ROWS, unit="row"):
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
            parts.append(encoded.reshape(*frames.shape[:2], *encoded.shape[1:]).astype(np.float16))
        return np.concatenate(parts)

    return encode
