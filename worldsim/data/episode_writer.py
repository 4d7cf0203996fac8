"""Episodes on disk, write side: rows are appended, and an episode exists once its end is committed.

Order of a commit: the chunks of every stream, fsync of these files and their folders, then the new value in
`episode_ends`, whose single chunk is replaced atomically. A recording that is killed, or finds the disk full,
thus leaves a store with all earlier episodes; what follows the last committed end is dropped when it is next
opened for writing. Chunk files are replaced by renaming, so that the chunk which an old and a new episode
share is never torn. They are written here and not by zarr, which keeps the arrays' metadata: it knows of no tags
(`worldsim.data.episode_stream`), and it would leave out chunks of zeros, so that a black frame and a missing chunk
looked alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from filelock import FileLock

from worldsim.data.episode_stream import StreamWriter, chunk_rows, create_array
from worldsim.data.episodes import (
    ENDS,
    FORMAT_VERSION,
    REQUIRED_STREAMS,
    UNCOMMITTED,
    Episodes,
    EpisodesMeta,
    StoreFiles,
    meta_digest,
    open_store,
)
from worldsim.errors import InvalidInput, InvalidState, WorldsimError
from worldsim.io.files import fsync, making_folder
from worldsim.io.locks import hold
from worldsim.spec import StreamSpec

LOCK = ".lock"  # in the store's folder
FINITE_STREAMS = ("action", "reward")  # what a model cannot learn from otherwise


class EpisodeWriter:
    """Writes episodes row by row; a context manager.

    Raises InvalidInput if `path` is a folder with something in it and `resume` is false, or if `resume` is
    true and the store there was recorded with other metadata (the message names the field). Leaving the
    context drops an episode that was begun and not ended. A store of an older format is upgraded first.
    """

    def __init__(self, path: Path | str, meta: EpisodesMeta, *, resume: bool = False) -> None:
        self.path = Path(path)
        self.meta = meta
        missing = [name for name in REQUIRED_STREAMS if name not in meta.streams]
        if missing:
            raise InvalidInput(f"the streams of an episode store lack {', '.join(missing)}; add them to the metadata")
        self.created = not (self.path.is_dir() and any(self.path.iterdir()))  # whether the store is a new one
        if not self.created and not resume:
            raise InvalidInput(f"{str(path)!r} is not empty; go on with --resume, or give another folder")
        if self.created:
            _create(self.path, meta)
        self._lock = _lock(self.path)
        try:
            self._require_same(Episodes.open(self.path).meta)
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> None:
        """Take up the store after its last committed episode."""
        self._remove_partial_files()
        _upgrade(self.path)
        self.ends = [int(end) for end in Episodes.open(self.path).ends]
        files = open_store(self.path, mode="r+")
        self._ends_array, self._ends_chunks = files.array(ENDS), files.chunks(ENDS)
        self._streams = {
            name: StreamWriter(files.array(name), files.chunks(name), self.num_steps) for name in self.meta.streams
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
                self._write_ends(kept - 1)  # without an end whose commit failed half-way
                self._ends_array.resize((kept,))
            for stream in self._streams.values():
                stream.array.resize((self.num_steps, *stream.array.shape[1:]))
        self._lock.release()

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _commit(self, end: int) -> None:
        index, rows = len(self.ends), self._ends_chunks.rows
        if index >= self._ends_array.shape[0]:
            if index % rows == 0:  # a chunk must exist as soon as the shape covers it, and the shape its ends
                self._write_ends(index)
            self._ends_array.resize(((index // rows + 1) * rows,))
        self.ends.append(end)
        try:
            fsync(self._write_ends(index))
            fsync(self._ends_chunks.folder / "zarr.json")
            fsync(self._ends_chunks.folder)
        except BaseException:
            self.ends.pop()
            raise

    def _write_ends(self, index: int) -> Path:
        """Write the chunk that has the end of episode `index`."""
        rows = self._ends_chunks.rows
        known = self.ends[index // rows * rows :][:rows]
        chunk = np.array(known + [UNCOMMITTED] * (rows - len(known)), self._ends_chunks.spec.dtype)
        return self._ends_chunks.write(index // rows, chunk, rows)

    def _require_same(self, stored: EpisodesMeta) -> None:
        ours, theirs = _flat(self.meta.to_json()), _flat(stored.to_json())
        if stored.augmentations is None:  # a store of an earlier version, which does not say
            ours = {name: value for name, value in ours.items() if not name.startswith("augmentations")}
        for name in sorted(ours.keys() | theirs.keys()):
            if not _is_description(name) and ours.get(name) != theirs.get(name):
                raise InvalidInput(
                    f"cannot resume {str(self.path)!r}: its {name} is {theirs.get(name)!r}, now it would be "
                    f"{ours.get(name)!r}; use the same options, or another folder"
                )

    def _remove_partial_files(self) -> None:
        for leftover in self.path.rglob("*.partial*"):
            leftover.unlink()

    def _write_failed(self, error: OSError) -> WorldsimError:
        self.close()  # the streams may now differ in length
        return WorldsimError(
            f"writing to {str(self.path)!r} failed ({error}); its {len(self.ends)} earlier episodes "
            "are whole: free space on that disk and go on with --resume"
        )


def _is_description(name: str) -> bool:
    """Whether rows of both kinds can be in one store, though this metadata of theirs differs: older stores say less."""
    stored = name.rpartition(".")[2] in ("shape", "dtype")
    return name == "creator" or (name.startswith("streams.") and not stored)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested metadata as one level: {"streams.rgb.dtype": "uint8", …}."""
    if not isinstance(values, dict):
        return {prefix: values}
    pairs = ((f"{prefix}.{key}" if prefix else key, value) for key, value in values.items())
    return {name: leaf for key, value in pairs for name, leaf in _flat(value, key).items()}


def _create(path: Path, meta: EpisodesMeta) -> None:
    """Make an empty store; a half-made one is never found at `path`.

    Raises InvalidInput where that cannot be; of two writers that begin at once, one is the first to rename.
    """
    values = meta.to_json()
    attributes = {"format_version": FORMAT_VERSION, "meta": values, "meta_sha256": meta_digest(values)}
    try:
        with making_folder(path) as partial:
            group = zarr.create_group(str(partial), zarr_format=3, attributes=attributes)
            ends = StoreFiles(partial, group, meta, FORMAT_VERSION, meta_digest(values)).chunks(ENDS)
            create_array(group, ENDS, ends.spec, ends.rows, UNCOMMITTED).resize((ends.rows,))
            ends.write(0, np.full(ends.rows, UNCOMMITTED, ends.spec.dtype), ends.rows)
            for name, spec in meta.streams.items():
                create_array(group, name, spec, chunk_rows(spec), 0)
        fsync(path.parent)
    except OSError as error:
        if path.is_dir() and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise InvalidInput(f"{str(path)!r} is being recorded to already; wait, or give another folder") from error
        raise InvalidInput(f"cannot make {str(path)!r} ({error}); give a folder to write in") from error


def upgrade_store(path: Path | str) -> None:
    """Bring a store of format 1 to the present format, in place: every chunk is checked and told where it belongs.

    A kill on the way leaves the old store whole; call it again. A store of the present format stays as it is.
    Raises InvalidInput where nothing can be written or the store is being recorded to, DamagedEpisodes if it is
    not whole.
    """
    path = Path(path)
    lock = _lock(path)
    try:
        _upgrade(path)
    finally:
        lock.release()


def _upgrade(path: Path) -> None:
    old = open_store(path, mode="r+")
    if old.version == FORMAT_VERSION:
        return
    attributes: dict[str, Any] = dict(old.group.attrs)
    new = dataclasses.replace(old, version=FORMAT_VERSION, digest=meta_digest(attributes["meta"]))
    lengths = dict.fromkeys(old.meta.streams, Episodes.open(path).num_steps)
    lengths[ENDS] = len(old.ends_chunks()) * old.chunks(ENDS).rows
    try:
        for name, length in lengths.items():
            _tag_chunks(old, new, name, length)
        # From here on the tags count: this is one file, replaced by a rename.
        old.group.update_attributes({"format_version": FORMAT_VERSION, "meta_sha256": new.digest})
        fsync(path / "zarr.json")
        fsync(path)
    except OSError as error:
        raise InvalidInput(
            f"episode store {str(path)!r} cannot be upgraded ({error}); it is as whole as before: free space on that "
            "disk, or record into another folder"
        ) from error


def _tag_chunks(old: StoreFiles, new: StoreFiles, stream: str, length: int) -> None:
    """Write the chunks that hold the first `length` rows anew; format 1 reads them, too, as it skips the tags."""
    chunks = new.chunks(stream)
    for index in range(-(-length // chunks.rows)):
        rows = min(chunks.rows, length - index * chunks.rows)
        fsync(chunks.write(index, old.chunks(stream).read(index, rows), rows))
    fsync(chunks.folder)


def _checked(name: str, row: Mapping[str, Any], spec: StreamSpec) -> np.ndarray:
    if name not in row:
        raise InvalidInput(f"the row lacks stream {name!r}; every row needs {name!r} as the metadata says")
    value = np.asarray(row[name])
    if value.shape != spec.shape or not np.can_cast(value.dtype, spec.dtype, casting="same_kind"):
        raise InvalidInput(
            f"stream {name!r} takes {spec.dtype} {spec.shape}, the row has {value.dtype} {value.shape}; convert it"
        )
    with np.errstate(over="ignore"):
        stored = value.astype(spec.dtype)
    if name in FINITE_STREAMS and not np.isfinite(stored).all():
        raise InvalidInput(
            f"stream {name!r} of the row is {value.tolist()}; give finite numbers that {spec.dtype} holds"
        )
    return stored


def _lock(path: Path) -> FileLock:
    """Hold the store for this writer until the returned lock is released, or the process ends.

    A folder that is no store is left as it is.
    """
    open_store(path, mode="r")
    return hold(path / LOCK, f"{str(path)!r} is being recorded to already; wait, or give another folder")
