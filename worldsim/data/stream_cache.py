"""Recorded streams as numbers to learn from: vectors and tokens as they are, what is larger encoded and kept on disk.

What encodes a stream follows from its kind: whoever trains on audio gives `{"audio": encoder}`. An encoder is given
whole episodes, so that it may look back in time, and its numbers are kept beside the run, as those of frames are.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from worldsim.data.augment import augment
from worldsim.data.episodes import REQUIRED_STREAMS, Episodes
from worldsim.data.shards import Make, make_together
from worldsim.errors import InvalidInput
from worldsim.io.files import read_json, write_json

LATENTS, DONE = "latents.npy", "done.json"  # the second one is written last
PLAIN_KINDS = ("vector", "token", "depth")  # streams that are learned as they were recorded
LARGE_ROW = 1024  # bytes of a row from which such a stream is mapped into memory instead of read
ROWS = 256  # read at a time


class StreamEncoder(Protocol):
    """Makes rows of a stream into numbers to learn from."""

    @property
    def digest(self) -> str:
        """A short name for these very weights and settings: other ones have another."""
        ...

    def row_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an encoded row of a stream whose rows have that `shape`; raises InvalidInput for a wrong one."""
        ...

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """One whole episode (T, ...), as recorded -> (T, *row_shape) float32."""
        ...


Encoders = Mapping[str, StreamEncoder]  # by the kind of the streams that they encode


def read_streams(
    store: Episodes, names: Sequence[str],
    *, run: Path | None = None, encoders: Encoders | None = None, augmentation: str | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Streams of a store as numbers to learn from, (T, ...) each.

    Vectors, tokens and depth are taken as recorded; those of large rows are kept in the folder `run`, since a store's
    chunks are slow to draw clips from. Those of another kind are encoded by what `encoders` has for it, as the
    `augmentation` shows them, and kept there, too. Raises InvalidInput for a stream that is absent, of a kind that
    nothing encodes, or not finite.
    """
    encoders = encoders or {}
    kinds = tuple(dict.fromkeys((*PLAIN_KINDS, *encoders)))
    known = [
        name for name, spec in store.meta.streams.items() if spec.kind in kinds and name not in REQUIRED_STREAMS
    ]  # fmt: skip
    values = {}
    for name in names:
        if name not in known:
            raise InvalidInput(
                f"episode store {store.path} has no {' or '.join(kinds)} {name!r}; it has {', '.join(known) or 'none'}"
            )
        kind = store.meta.streams[name].kind
        if kind in encoders:
            assert run is not None
            values[name] = _encoded(store, name, encoders[kind], run, augmentation)
            continue
        if run is not None and store.meta.streams[name].row_bytes >= LARGE_ROW:
            values[name] = _mapped(store, name, run)
        else:
            values[name] = _finite(store, name, 0, store.num_steps)
    return values


def _finite(store: Episodes, name: str, start: int, stop: int) -> np.ndarray:
    """Rows of a stream; raises InvalidInput where they are not finite."""
    rows = store.read(name, start, stop)
    if not np.isfinite(rows).all():
        raise InvalidInput(f"stream {name!r} of episode store {store.path} is not finite; record it again")
    return rows


def _mapped(store: Episodes, name: str, run: Path) -> np.ndarray:
    """A stream of large rows, copied once to an array that is mapped into memory."""
    spec, rows = store.meta.streams[name], store.num_steps

    def fill(path: Path) -> None:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(spec.dtype), shape=(rows, *spec.shape))
        for start in range(0, rows, ROWS):
            stop = min(start + ROWS, rows)
            array[start:stop] = _finite(store, name, start, stop)
        array.flush()

    made_of = {"rows": rows, "store": rows_digest(store), "stream": name}
    return cached(run / "latents" / f"{store.path.name}-{name}-{rows}", made_of, fill)


def _encoded(
    store: Episodes, name: str, encoder: StreamEncoder, run: Path, augmentation: str | None
) -> np.ndarray:  # fmt: skip
    """A stream's encoded rows, (T, ...) float32, computed once."""
    rows = store.num_steps
    made_of = {
        "rows": rows, "store": rows_digest(store), "stream": name, "encoder": encoder.digest,
        "augmentation": augmentation,
    }  # fmt: skip
    shape = (rows, *encoder.row_shape(store.meta.streams[name].shape))
    folder = run / "latents" / "-".join(filter(None, (store.path.name, name, encoder.digest, str(rows), augmentation)))

    def fill(path: Path) -> None:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        starts = np.concatenate([[0], store.ends[:-1]])
        for start, end in tqdm(list(zip(starts, store.ends, strict=True)), desc=f"{name} of {store.path.name}"):
            recorded = store.read(name, int(start), int(end))
            if augmentation is not None:
                recorded = augment(augmentation, store.meta, {name: recorded})[name]
            array[start:end] = encoder.encode(recorded)
        array.flush()

    return cached(folder, made_of, fill)


def cached(folder: Path, made_of: Mapping[str, Any], fill: Callable[[Path], None]) -> np.ndarray:
    """The array that `fill` writes to the path that it is given, memory-mapped; written anew where it is not whole.

    `made_of` is all that the array depends on, as JSON. What is kept is read once to compare its checksum. Of several
    processes on one machine, the first one computes and the others wait for it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / ".lock"):
        if not _is_whole(folder, made_of):
            _tell_of_damage(folder)
            shutil.rmtree(folder, ignore_errors=True)  # an interrupted attempt has no done.json
            folder.mkdir()
            fill(folder / LATENTS)
            _finish(folder, made_of)
    return np.asarray(np.load(folder / LATENTS, mmap_mode="r"))


def cached_in_shards(folder: Path, made_of: Mapping[str, Any], rows: int, make: Make) -> np.ndarray:
    """As `cached`, for an array of `rows` rows each of which `make` computes by itself.

    The processes of a torchrun share the work, without a lock (`worldsim.data.shards`).
    """
    if not _is_whole(folder, made_of):
        _tell_of_damage(folder)
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
        shards = folder.with_name(f"{folder.name}.{digest}.shards")
        place = {"rank": int(os.environ.get("RANK", 0)), "world": int(os.environ.get("WORLD_SIZE", 1))}
        if make_together(folder / LATENTS, shards, rows, make, lambda: _is_whole(folder, made_of), **place):
            _finish(folder, made_of)
            shutil.rmtree(shards, ignore_errors=True)
    return np.asarray(np.load(folder / LATENTS, mmap_mode="r"))


def _tell_of_damage(folder: Path) -> None:
    if folder.exists():
        tqdm.write(f"the latents in {folder} are not whole, or of another store: computing them", file=sys.stderr)


def _finish(folder: Path, made_of: Mapping[str, Any]) -> None:
    write_json(folder / DONE, {**made_of, "sha256": _file_digest(folder / LATENTS)})


def rows_digest(store: Episodes) -> str:
    """Tells apart stores of one name and length, such as `a/data` and `b/data`."""
    ends = np.ascontiguousarray(store.ends, np.int64).tobytes()
    return hashlib.sha256(json.dumps(store.meta.to_json(), sort_keys=True).encode() + ends).hexdigest()[:12]


def _is_whole(folder: Path, made_of: Mapping[str, Any]) -> bool:
    """Whether an array of just this is there and has the checksum that was noted; caches of old have none."""
    try:
        note = read_json(folder / DONE)
        same = isinstance(note, dict) and note == {**made_of, "sha256": note.get("sha256")}
        return same and bool(note["sha256"] == _file_digest(folder / LATENTS))
    except (OSError, ValueError):
        return False


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
