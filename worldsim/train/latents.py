"""Latents of whole episode stores, computed once and kept beside the run as memory-mapped arrays."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from worldsim.devices import autocast_dtype, choose_device
from worldsim.episodes import REQUIRED_STREAMS, Episodes
from worldsim.errors import DamagedCheckpoint, InvalidInput
from worldsim.files import read_json
from worldsim.models.tokenizer import Tokenizer, TokenizerConfig, to_pictures
from worldsim.train.checkpoint import load_checkpoint, setting
from worldsim.train.mirror import mirror_actions, mirror_frames

ROWS = 64  # encoded at a time
LATENTS, DONE = "latents.npy", "done.json"  # the second one is written last


@dataclass(frozen=True)
class LatentEpisodes:
    """An episode store as the dynamics sees it; T rows, as in the store."""

    latents: np.ndarray  # (T, 1 + between, C, h, w) float16: the frame, then the pictures before it, oldest first
    actions: np.ndarray  # (T,) int64 or (T, A) float32
    rewards: np.ndarray  # (T,) float32
    terminated: np.ndarray  # (T,) bool
    harmed: np.ndarray  # (T,) bool, an ending or, where the health is recorded, a loss of it
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
    pictures = to_pictures(torch.from_numpy(frames).to(device)).contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return tokenizer.encode(pictures).float()


def cache_latents(
    tokenizer: Tokenizer, store: Episodes, run: Path, device: str = "auto",
    *, health: str | None = None, mirrored: bool = False, streams: Sequence[str] = (),
) -> LatentEpisodes:  # fmt: skip
    """Encode a store, or open what an earlier call encoded with the same tokenizer from the same rows.

    What is kept is read once to compare its checksum; where it is not whole it is computed anew, and stderr says so.

    `health` names a recorded variable whose fall comes before an ending; `mirrored` gives the episodes as a mirror
    shows them; `streams` names the recorded vectors and tokens that come with them.
    Of several processes on one machine, the first one encodes and the others wait for it.
    """
    harmed, rows = harms(store, health), store.num_steps
    actions = store.read("action", 0, rows)
    if mirrored:
        actions = mirror_actions(store.meta.actions, actions)
    made_of = {"rows": rows, "store": _rows_digest(store), "tokenizer": weights_digest(tokenizer), "mirrored": mirrored}
    name = f"{store.path.name}-{made_of['tokenizer']}-{rows}"
    folder = run / "latents" / (f"{name}-mirrored" if mirrored else name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / ".lock"):
        if not _is_whole(folder, made_of):
            if folder.exists():
                tqdm.write(
                    f"the latents in {folder} are not whole, or of another store: computing them", file=sys.stderr
                )
            _encode_store(tokenizer, store, folder, mirrored)
            done = json.dumps({**made_of, "sha256": _file_digest(folder / LATENTS)})
            (folder / DONE).write_text(done, encoding="utf-8")
    return LatentEpisodes(
        latents=np.load(folder / LATENTS, mmap_mode="r"),
        actions=actions,
        rewards=store.read("reward", 0, rows),
        terminated=store.read("terminated", 0, rows),
        harmed=harmed,
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


def harms(store: Episodes, health: str | None) -> np.ndarray:
    """The rows that ended the episode or came with less of the variable `health` than the row before, (T,) bool.

    Raises InvalidInput if the store has no such variable.
    """
    harmed = store.read("terminated", 0, store.num_steps)
    if health is None:
        return harmed
    names = store.meta.variable_names if "variables" in store.streams else ()
    if health not in names:
        raise InvalidInput(
            f"episode store {store.path} has no variable {health!r}; its variables are {', '.join(names) or 'none'}"
        )
    level = store.read("variables", 0, store.num_steps)[:, names.index(health)]
    fell = np.concatenate([[False], level[1:] < level[:-1]])
    fell[store.ends - store.lengths] = False  # an episode may begin with less than the one before ended with
    return harmed | fell


def _rows_digest(store: Episodes) -> str:
    """Tells apart stores of one name and length, such as `a/data` and `b/data`."""
    ends = np.ascontiguousarray(store.ends, np.int64).tobytes()
    return hashlib.sha256(json.dumps(store.meta.to_json(), sort_keys=True).encode() + ends).hexdigest()[:12]


def _is_whole(folder: Path, made_of: dict[str, Any]) -> bool:
    """Whether latents of just this are there and have the checksum that was noted; caches of old have none."""
    try:
        return read_json(folder / DONE) == {**made_of, "sha256": _file_digest(folder / LATENTS)}
    except (OSError, ValueError):
        return False


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encode_store(tokenizer: Tokenizer, store: Episodes, folder: Path, mirrored: bool) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted attempt has no done.json
    folder.mkdir()
    c, between = tokenizer.config, store.meta.streams["between"].shape[0] if "between" in store.streams else 0
    shape = (store.num_steps, 1 + between, c.channels, c.latent_height, c.latent_width)
    array = np.lib.format.open_memmap(folder / LATENTS, mode="w+", dtype=np.float16, shape=shape)
    named = f"latents of {store.path.name}" + (" in the mirror" if mirrored else "")
    for start in tqdm(range(0, store.num_steps, ROWS), desc=named, unit_scale=ROWS, unit="row"):
        stop = min(start + ROWS, store.num_steps)
        frames = store.frames(c.cameras, start, stop)[:, None]
        if between:
            frames = np.concatenate([frames, store.read("between", start, stop)], axis=1)
        if mirrored:
            frames = mirror_frames(frames)
        encoded = encode_frames(tokenizer, frames.reshape(-1, *frames.shape[2:]))
        array[start:stop] = encoded.cpu().numpy().reshape(stop - start, *shape[1:])
    array.flush()
