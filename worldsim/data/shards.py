"""One large array that several processes make together, on one machine or on several that share a disk, without a lock.

Each process makes shards of its own share and gives them their names once they are whole, where the first one to do so
wins; then one joins them. A process that is late or lost is not waited for long: others make what is missing. What is
made twice is made for nothing, and changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np

ROWS = 4096  # of a shard
WAIT = 60.0  # seconds without a new shard after which another process's share is made here
POLL = 0.2  # seconds between looks at the disk

Make = Callable[[int, int], np.ndarray]  # rows [start, stop) of the array


def make_together(
    path: Path, shards: Path, rows: int, make: Make, is_whole: Callable[[], bool], *, rank: int = 0, world: int = 1
) -> bool:
    """Make the array of `rows` rows at `path` (.npy) from shards in the folder `shards`, which the caller clears.

    This process is number `rank` of `world`. `is_whole` says whether another one has finished it all; returns whether
    this one joined the shards. What an earlier call left in `shards` is taken up.
    """
    files = [shards / f"{start:09d}.npy" for start in range(0, rows, ROWS)]
    shards.mkdir(parents=True, exist_ok=True)
    for index in range(rank, len(files), world):
        _make_shard(files[index], index * ROWS, rows, make)
    for index in _missing(files, rank, is_whole):
        _make_shard(files[index], index * ROWS, rows, make)
    if rank and _appears(is_whole):
        return False
    try:
        _join(files, path, rows)
    except FileNotFoundError:  # another process has joined them and cleared up
        if is_whole():
            return False
        raise
    return True


def _missing(files: list[Path], rank: int, is_whole: Callable[[], bool]) -> Iterator[int]:
    """Shards that do not come; waits for those of others."""
    changed, before = time.monotonic(), -1
    while missing := [index for index, file in enumerate(files) if not file.exists()]:
        if is_whole():  # joined, and the shards cleared
            return
        if len(missing) != before:
            changed, before = time.monotonic(), len(missing)
        if time.monotonic() - changed > WAIT:
            yield missing[rank % len(missing)]
        else:
            time.sleep(POLL)


def _appears(is_whole: Callable[[], bool]) -> bool:
    """Whether another process joins the shards in time."""
    until = time.monotonic() + WAIT
    while not is_whole():
        if time.monotonic() > until:
            return False
        time.sleep(POLL)
    return True


def _make_shard(file: Path, start: int, rows: int, make: Make) -> None:
    if file.exists():
        return
    partial = _mine(file)
    with open(partial, "wb") as out:
        np.save(out, make(start, min(start + ROWS, rows)))
    try:
        with contextlib.suppress(FileExistsError):  # the first one stays: others may have read it
            os.link(partial, file)
    except OSError:  # a disk that knows no links
        os.replace(partial, file)
        return
    partial.unlink()


def _join(files: list[Path], path: Path, rows: int) -> None:
    partial = _mine(path)
    shape = (rows, *np.load(files[0], mmap_mode="r").shape[1:])
    array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.load(files[0], mmap_mode="r").dtype, shape=shape)
    try:
        for index, file in enumerate(files):
            part = np.load(file)
            array[index * ROWS : index * ROWS + len(part)] = part
        array.flush()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _mine(path: Path) -> Path:
    """A name that no other process uses, on whatever machine."""
    return path.with_name(f"{path.name}.{uuid4().hex}.partial")
