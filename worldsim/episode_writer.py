"""Episodes on disk, write side: rows are appended, and an episode exists once its end is committed.

Order of a commit: the chunks of every stream, fsync of these files and their folders, then the new value in
`episode_ends`, whose single chunk is replaced atomically. A recording that is killed, or finds the disk full,
thus leaves a store with all earlier episodes; what follows the last committed end is dropped when it is next
opened for writing. Chunk files are replaced by renaming, so that the chunk which an old and a new episode
share is never torn.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from worldsim.episode_stream import (
    PICTURE_CHUNK,
    SMALL_CHUNK,
    StreamWriter,
    create_array,
    fsync,
    writable,
)
from worldsim.episodes import (
    FORMAT_VERSION,
    REQUIRED_STREAMS,
    UNCOMMITTED,
    Episodes,
    EpisodesMeta,
    StreamSpec,
    chunk_path,
    meta_digest,
    open_group,
)
from worldsim.errors import InvalidInput, InvalidState, WorldsimError

ENDS_CHUNK = 65_536  # episodes in a chunk of `episode_ends`; a second one is hardly ever needed


class EpisodeWriter:
    """Writes episodes row by row; a context manager.

    Raises InvalidInput if `path` is a folder with something in it and `resume` is false, or if `resume` is
    true and the store there was recorded with other metadata (the message names the field). Leaving the
    context drops an episode that was begun and not ended.
    """

    def __init__(self, path: Path | str, meta: EpisodesMeta, *, resume: bool = False) -> None:
        self.path = Path(path)
        self.meta = meta
        missing = [name for name in REQUIRED_STREAMS if name not in meta.streams]
        if missing:
            raise InvalidInput(f"the streams of an episode store lack {', '.join(missing)}; add them to the metadata")
        if self.path.is_dir() and any(self.path.iterdir()):
            if not resume:
                raise InvalidInput(f"{str(path)!r} is not empty; go on with --resume, or give another folder")
            self._require_same(Episodes.open(self.path).meta)
        else:
            try:
                _create(self.path, meta)
            except OSError as error:
                raise InvalidInput(f"cannot make {str(path)!r} ({error}); give a folder to write in") from error
            finally:
                shutil.rmtree(_unfinished(self.path), ignore_errors=True)
        self._lock = _lock(self.path)
        try:
            self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self) -> None:
        """Take up the store after its last committed episode."""
        self.ends = [int(end) for end in Episodes.open(self.path).ends]
        self._remove_partial_files()
        group, _ = open_group(self.path, mode="r+")
        self._ends_array = writable(group, "episode_ends")
        self._streams = {
            name: StreamWriter(writable(group, name), self.path / name, self.num_steps) for name in self.meta.streams
        }
        self._closed = False

    @property
    def num_steps(self) -> int:
        """Rows of the committed episodes."""
        return self.ends[-1] if self.ends else 0

    @property
    def pending_steps(self) -> int:
        """Rows of the episode that is being written."""
        return self._streams["rgb"].length - self.num_steps

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row: every stream of the metadata, and nothing else, with the stated shape and type."""
        if self._closed:
            raise InvalidState(f"the writer of {str(self.path)!r} is closed; open another one with resume=True")
        values = {name: _checked(name, row, spec) for name, spec in self.meta.streams.items()}
        extra = set(row) - set(values)
        if extra:
            raise InvalidInput(f"the row has streams that the store lacks: {', '.join(sorted(extra))}")
        try:
            for name, value in values.items():
                self._streams[name].append(value)
        except OSError as error:
            raise self._write_failed(error) from error

    def end_episode(self) -> None:
        """Commit the rows since the last end as one episode; from here on a kill cannot lose them."""
        if self.pending_steps == 0:
            raise InvalidState("an episode needs at least one row; append rows before ending it")
        try:
            for stream in self._streams.values():
                stream.flush()
                stream.sync()
            self._commit(self._streams["rgb"].length)
        except OSError as error:
            raise self._write_failed(error) from error

    def drop_episode(self) -> None:
        """Forget the rows since the last committed end."""
        for stream in self._streams.values():
            stream.rewind(self.num_steps)

    def close(self) -> None:
        """Drop an episode that was not ended and trim the arrays; may be called twice."""
        if self._closed:
            return
        self._closed = True
        kept = max(1, len(self.ends))  # at 0 zarr would delete the chunk
        # Trimming only tidies up, so a full disk may prevent it. The ends go first, and if that fails the
        # rows stay: at no time may an end speak of rows that are gone.
        with contextlib.suppress(OSError):
            if len(self.ends) < self._ends_array.shape[0]:
                self._ends_array[len(self.ends) :] = UNCOMMITTED
                self._ends_array.resize((kept,))
            for stream in self._streams.values():
                stream.array.resize((self.num_steps, *stream.array.shape[1:]))
        os.close(self._lock)

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _commit(self, end: int) -> None:
        index = len(self.ends)
        path = self.path / "episode_ends"
        rows = self._ends_array.chunks[0]
        if index >= self._ends_array.shape[0]:
            size = (index // rows + 1) * rows
            self._ends_array.resize((size,))
            if index % rows == 0:  # a chunk must exist as soon as the shape covers it
                self._ends_array[index:size] = UNCOMMITTED
        self._ends_array[index] = end
        fsync(chunk_path(self._ends_array, path, index // rows))
        fsync(path / "zarr.json")
        fsync(path)
        self.ends.append(end)

    def _require_same(self, stored: EpisodesMeta) -> None:
        ours, theirs = _flat(self.meta.to_json()), _flat(stored.to_json())
        for name in sorted(ours.keys() | theirs.keys()):
            if name != "creator" and ours.get(name) != theirs.get(name):
                raise InvalidInput(
                    f"cannot resume {str(self.path)!r}: its {name} is {theirs.get(name)!r}, now it would be "
                    f"{ours.get(name)!r}; use the same options, or another folder"
                )

    def _remove_partial_files(self) -> None:
        for leftover in self.path.rglob("*.partial"):
            leftover.unlink()

    def _write_failed(self, error: OSError) -> WorldsimError:
        self.close()  # the streams may now differ in length
        return WorldsimError(
            f"writing to {str(self.path)!r} failed ({error}); its {len(self.ends)} earlier episodes "
            "are whole: free space on that disk and go on with --resume"
        )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested metadata as one level: {"streams.rgb.dtype": "uint8", …}."""
    if not isinstance(values, dict):
        return {prefix: values}
    pairs = ((f"{prefix}.{key}" if prefix else key, value) for key, value in values.items())
    return {name: leaf for key, value in pairs for name, leaf in _flat(value, key).items()}


def _unfinished(path: Path) -> Path:
    """Where a store is made that will be at `path`."""
    return path.with_name(f".{path.name}.new")


def _create(path: Path, meta: EpisodesMeta) -> None:
    """Make an empty store beside `path` and rename it, so that a half-made one is never found there."""
    values = meta.to_json()
    attributes = {"format_version": FORMAT_VERSION, "meta": values, "meta_sha256": meta_digest(values)}
    temporary = _unfinished(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    group = zarr.create_group(str(temporary), zarr_format=3, attributes=attributes)
    create_array(group, "episode_ends", StreamSpec((), "int64"), ENDS_CHUNK, UNCOMMITTED)
    ends = writable(group, "episode_ends")
    ends.resize((ENDS_CHUNK,))
    ends[:] = UNCOMMITTED
    for name, spec in meta.streams.items():
        row_bytes = int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
        create_array(group, name, spec, PICTURE_CHUNK if row_bytes >= 1024 else SMALL_CHUNK, 0)
    if path.is_dir():
        path.rmdir()
    os.replace(temporary, path)
    fsync(path.parent)


def _checked(name: str, row: Mapping[str, Any], spec: StreamSpec) -> np.ndarray:
    if name not in row:
        raise InvalidInput(f"the row lacks stream {name!r}; every row needs {name!r} as the metadata says")
    value = np.asarray(row[name])
    if value.shape != spec.shape or not np.can_cast(value.dtype, spec.dtype, casting="same_kind"):
        raise InvalidInput(
            f"stream {name!r} takes {spec.dtype} {spec.shape}, the row has {value.dtype} {value.shape}; convert it"
        )
    return value


def _lock(path: Path) -> int:
    """Hold the store for this writer until the returned descriptor is closed, or the process ends."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InvalidInput(f"{str(path)!r} is being recorded to already; wait, or give another folder") from error
    return descriptor
