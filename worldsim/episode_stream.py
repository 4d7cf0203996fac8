"""One stream of an episode store: how rows become chunk files of a zarr array."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from worldsim.episodes import StreamSpec, chunk_path

PICTURE_CHUNK = 16  # rows in a chunk of pictures: a training clip touches one or two
SMALL_CHUNK = 1024  # rows in a chunk of scalars and short vectors
CAPACITY = 16_384  # arrays grow by so many rows at once, a multiple of both chunk lengths


class StreamWriter:
    """Appends rows to one array through a buffer of one chunk."""

    def __init__(self, array: zarr.Array, path: Path, length: int) -> None:
        self.array = array
        self.path = path
        self.rows = array.chunks[0]
        self.touched: list[Path] = []
        self.rewind(length)

    def rewind(self, length: int) -> None:
        """Go on after `length` rows; what follows them is forgotten and later overwritten."""
        self.length = length
        self.buffer = np.zeros(self.array.chunks, self.array.dtype)
        start = length - length % self.rows
        if start < length:
            self.buffer[: length - start] = self.array[start:length]

    def append(self, value: np.ndarray) -> None:
        """Add one row; a full chunk is written at once."""
        self.buffer[self.length % self.rows] = value
        self.length += 1
        if self.length % self.rows == 0:
            self._write(self.length - self.rows)
            self.buffer = np.zeros_like(self.buffer)

    def flush(self) -> None:
        """Write the begun chunk, padded with zeros."""
        if self.length % self.rows:
            self._write(self.length - self.length % self.rows)

    def _write(self, start: int) -> None:
        if start + self.rows > self.array.shape[0]:
            self.array.resize((-(-(start + self.rows) // CAPACITY) * CAPACITY, *self.array.shape[1:]))
            self.touched.append(self.path / "zarr.json")
        self.array[start : start + self.rows] = self.buffer
        self.touched.append(chunk_path(self.array, self.path, start // self.rows))

    def sync(self) -> None:
        """Have the operating system put on disk what was written since the last call."""
        for path in self.touched:
            fsync(path)
        fsync(self.path)
        self.touched.clear()


def create_array(group: zarr.Group, name: str, spec: StreamSpec, rows: int, fill: int) -> None:
    """Add an empty array to the group, with chunks of `rows` rows."""
    group.create_array(
        name,
        shape=(0, *spec.shape),
        chunks=(rows, *spec.shape),
        dtype=spec.dtype,
        fill_value=np.dtype(spec.dtype).type(fill),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],  # the checksum is over the bytes on disk
        chunk_key_encoding={"name": "default", "separator": "."},  # one flat folder a stream
    )


def writable(group: zarr.Group, name: str) -> zarr.Array:
    """An array that writes chunks of zeros too, else a black picture and a missing chunk look alike."""
    array: zarr.Array = group[name]  # type: ignore[assignment]
    return array.with_config({"write_empty_chunks": True})


def fsync(path: Path) -> None:
    """Have the operating system put a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
