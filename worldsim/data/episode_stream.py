"""The streams of an episode store on disk: zarr arrays, their metadata, and the chunk files that hold their rows.

A chunk file is what zarr would write, a zstd frame and a CRC-32C over it, with a tag between the two: a zstd frame
of the kind that decoders skip, so that any zarr reader still reads the chunk. The tag says which chunk of which
stream of which recording this is and how many of its rows were written, so that a chunk is read nowhere but in its
own place, and no older copy of it. One file holds all this, so it is replaced as a whole: whenever a recording is
killed, each chunk and its tag are of the same moment.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
import zarr
from numcodecs.zstd import Zstd
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from worldsim.errors import DamagedEpisodes
from worldsim.io.files import fsync, read_bytes, replacing
from worldsim.spec import StreamSpec

FRAME_CHUNK = 16  # rows in a chunk of frames: a training clip touches one or two
SMALL_CHUNK = 1024  # rows in a chunk of scalars and short vectors
CAPACITY = 16_384  # arrays grow by so many rows at once, a multiple of both chunk lengths
COMPRESSION = 3  # of zstd
TAG = struct.Struct("<II16sI")  # magic number and size of a skippable frame, digest of the place, rows
MAGIC = 0x184D2A50
CRC = struct.Struct("<I")


@dataclass(frozen=True)
class ChunkFiles:
    """The chunk files of one stream; a chunk spans all axes but the first."""

    folder: Path
    spec: StreamSpec
    rows: int  # in a chunk
    store: str | None  # digest of the store's metadata, a part of every tag; None: chunks of format 1 have no tags

    def path(self, index: int) -> Path:
        """The file of the `index`-th chunk along time."""
        return self.folder / ".".join(["c", str(index)] + ["0"] * len(self.spec.shape))

    def read(self, index: int, least: int, *, asked: tuple[int, int] | None = None) -> np.ndarray:
        """One chunk, (rows, ...), of which at least the first `least` rows were written.

        Raises DamagedEpisodes where it is missing, damaged, or belongs elsewhere; the message names the rows that were
        `asked` for, by default those `least` ones.
        """
        first = index * self.rows
        start, stop = asked or (first, first + least)
        try:
            return self._decode(read_bytes(self.path(index), most=2 * self._bytes + 65_536), index, least)
        except FileNotFoundError as error:
            raise damaged(self.folder.parent, self.folder.name, first, first + least, "a chunk is missing") from error
        except (OSError, ValueError) as error:
            raise damaged(self.folder.parent, self.folder.name, start, stop, str(error)) from error

    def write(self, index: int, values: np.ndarray, rows: int) -> Path:
        """Put a whole chunk (rows, ...) in place, of which the first `rows` count; returns its path.

        Raises OSError where it cannot be written; the file that was there is then whole.
        """
        raw = np.ascontiguousarray(values, np.dtype(self.spec.dtype).newbyteorder("<"))
        body = bytes(Zstd(level=COMPRESSION).encode(raw.reshape(-1).view(np.uint8)))
        body += TAG.pack(MAGIC, TAG.size - 8, self._place(index), rows)
        path = self.path(index)
        with replacing(path, sync=False) as partial:
            partial.write_bytes(body + CRC.pack(google_crc32c.value(body)))
        return path

    def _decode(self, data: bytes, index: int, least: int) -> np.ndarray:
        body, crc = data[: -CRC.size], data[-CRC.size :]
        if len(crc) < CRC.size or CRC.unpack(crc)[0] != google_crc32c.value(body):
            raise ValueError("a chunk fails its checksum")
        if self.store is not None:
            body = self._untagged(body, index, least)
        try:
            values = Zstd().decode(body)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise ValueError(f"a chunk cannot be decoded ({error})") from error
        if len(values) != self._bytes:
            raise ValueError(f"a chunk holds {len(values)} bytes instead of {self._bytes}")
        dtype = np.dtype(self.spec.dtype).newbyteorder("<")
        return np.frombuffer(values, dtype).astype(self.spec.dtype, copy=False).reshape(self.rows, *self.spec.shape)

    def _untagged(self, body: bytes, index: int, least: int) -> bytes:
        try:
            magic, _, place, rows = TAG.unpack(body[-TAG.size :])
        except struct.error as error:
            raise ValueError("a chunk has no tag") from error
        if magic != MAGIC or place != self._place(index):
            raise ValueError("a chunk of another place or store lies there")
        if rows < least:
            raise ValueError("a chunk is older than the last episode")
        return body[: -TAG.size]

    def _place(self, index: int) -> bytes:
        return hashlib.sha256(f"{self.store} {self.folder.name} {index}".encode()).digest()[:16]

    @property
    def _bytes(self) -> int:
        return self.rows * self.spec.row_bytes


class StreamWriter:
    """Appends rows to one stream through a buffer of one chunk."""

    def __init__(self, array: zarr.Array, chunks: ChunkFiles, length: int) -> None:
        self.array = array  # its metadata: rows go to the chunk files directly
        self.chunks = chunks
        self.rows = chunks.rows
        self.touched: list[Path] = []
        self.rewind(length)

    def rewind(self, length: int) -> None:
        """Go on after `length` rows; what follows them is forgotten and later overwritten."""
        self.length = length
        self.buffer = np.zeros((self.rows, *self.chunks.spec.shape), self.chunks.spec.dtype)
        begun = length % self.rows
        if begun:
            self.buffer[:begun] = self.chunks.read(length // self.rows, begun)[:begun]

    def append(self, value: np.ndarray) -> None:
        """Add one row; a full chunk is written at once."""
        self.buffer[self.length % self.rows] = value
        self.length += 1
        if self.length % self.rows == 0:
            self._write(self.length // self.rows - 1, self.rows)
            self.buffer = np.zeros_like(self.buffer)

    def flush(self) -> None:
        """Write the begun chunk, padded with zeros."""
        if self.length % self.rows:
            self._write(self.length // self.rows, self.length % self.rows)

    def _write(self, index: int, rows: int) -> None:
        stop = (index + 1) * self.rows
        if stop > self.array.shape[0]:
            self.array.resize((-(-stop // CAPACITY) * CAPACITY, *self.array.shape[1:]))
            self.touched.append(self.chunks.folder / "zarr.json")
        self.touched.append(self.chunks.write(index, self.buffer, rows))

    def sync(self) -> None:
        """Have the operating system put on disk what was written since the last call."""
        for path in self.touched:
            fsync(path)
        fsync(self.chunks.folder)
        self.touched.clear()


def chunk_rows(spec: StreamSpec) -> int:
    """Rows in a chunk of a stream."""
    return FRAME_CHUNK if spec.row_bytes >= 1024 else SMALL_CHUNK


def damaged(path: Path, stream: str, start: int, stop: int, reason: str) -> DamagedEpisodes:
    """The error for damage found in rows [start, stop) of a stream."""
    return DamagedEpisodes(
        f"episode store {str(path)!r}, stream {stream!r}, rows {start} to {stop}: {reason}; "
        "restore the store from a copy or record it again"
    )


def create_array(group: zarr.Group, name: str, spec: StreamSpec, rows: int, fill: int) -> zarr.Array:
    """Add an empty array to the group, with chunks of `rows` rows."""
    return group.create_array(
        name,
        shape=(0, *spec.shape),
        chunks=(rows, *spec.shape),
        dtype=spec.dtype,
        fill_value=np.dtype(spec.dtype).type(fill),
        compressors=[ZstdCodec(level=COMPRESSION), Crc32cCodec()],  # the checksum is over the bytes on disk
        chunk_key_encoding={"name": "default", "separator": "."},  # one flat folder a stream
    )


def is_ours(array: zarr.Array, spec: StreamSpec, rows: int, fill: int) -> bool:
    """Whether an array's metadata is what `create_array` writes, but for its length."""
    return _comparable(array) == _expected(spec, rows, fill)


@functools.lru_cache(maxsize=256)
def _expected(spec: StreamSpec, rows: int, fill: int) -> str:
    group = zarr.create_group(MemoryStore(), zarr_format=3)
    return _comparable(create_array(group, "expected", spec, rows, fill))


def _comparable(array: zarr.Array) -> str:
    values = array.metadata.to_dict()
    values["shape"] = tuple(array.shape[1:])
    return repr(sorted(values.items()))
