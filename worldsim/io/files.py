"""Files on disk: read with care, since others may have made them, and written whole or not at all.

Read are only regular files of a sensible size, and only plain JSON. Whatever is written appears in one rename, so that
a kill or a full disk leaves what was there before.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from worldsim.errors import InvalidInput

JSON_BYTES = 64 * 2**20  # far above every JSON file that worldsim writes
JSON_DEPTH = 64  # of lists and objects in each other
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", re.ASCII)


def is_name(text: str) -> bool:
    """Whether `text` may become part of a path: 1 to 64 letters, digits and . _ -, the first of them no dot."""
    return _NAME.fullmatch(text) is not None


def read_bytes(path: Path | str, most: int) -> bytes:
    """A whole file of at most `most` bytes; raises OSError for a larger one and for what is no regular file."""
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{str(path)!r} is no regular file")
        if status.st_size > most:
            raise OSError(f"{str(path)!r} has {status.st_size} bytes, more than {most}")
        return file.read(status.st_size)


def read_json(path: Path | str, most: int = JSON_BYTES) -> Any:
    """The value in a JSON file; raises OSError as `read_bytes` does, ValueError as `parse_json` does."""
    return parse_json(read_bytes(path, most).decode("utf-8"))


def parse_json(text: str) -> Any:
    """The value of a JSON text; raises ValueError where it is malformed or nested too deeply."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
    _check_depth(value, JSON_DEPTH)
    return value


def _check_depth(value: Any, left: int) -> None:
    """What is built from the value recurses into it, so a bound here saves a check everywhere else."""
    if not left:
        raise ValueError("its values are nested too deeply")
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            _check_depth(child, left - 1)


def _open_at_once(path: str, flags: int) -> int:
    """Opening a pipe must not wait until somebody writes into it."""
    return os.open(path, flags | os.O_NONBLOCK)


def write_json(path: Path | str, value: Any, *, indent: int | None = 2) -> None:
    """Write a JSON file, whole or not at all; numbers that are not finite become null. Raises InvalidInput.

    `indent` is as in `json.dumps`: None, on one line, for files that only programs read.
    """
    write_atomically(path, (json.dumps(_finite(value), indent=indent) + "\n").encode())


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def fsync(path: Path) -> None:
    """Have the operating system put a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn what goes wrong on the disk inside this block into InvalidInput that names `path`."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"cannot write {str(path)!r} ({error.strerror or error}); give a path that can be written, on a disk with "
            "space"
        ) from error


def write_atomically(path: Path | str, data: bytes) -> None:
    """Write a file whole or not at all; raises InvalidInput where that cannot be."""
    with writing(path), replacing(Path(path)) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A path to write to inside the block, whose file is then put at `path`; nothing changes if the block fails.

    With `sync` the file is on disk before it has its name. Raises OSError where the disk fails.
    """
    draft = Draft(path)
    try:
        yield draft.partial
        draft.put_in_place(sync=sync)
    finally:
        draft.discard()


class Draft:
    """A file on the way: written at `partial`, beside its `path` and with the same ending, then put there.

    A pipe or a device, such as /dev/stdout, is written as it is. Makes the folder; raises OSError where it cannot.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._special = path.exists() and not path.is_file()
        name = f".{path.stem}.{uuid4().hex[:8]}.partial{path.suffix}"
        self.partial = path if self._special else path.with_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)

    def put_in_place(self, *, sync: bool = True) -> None:
        """Let the file have its name, in one rename."""
        if self._special:
            return
        if sync:
            fsync(self.partial)
        os.replace(self.partial, self.path)

    def discard(self) -> None:
        """Remove what was written, unless it is in its place; a disk that fails may leave it."""
        if not self._special:
            with contextlib.suppress(OSError):
                self.partial.unlink(missing_ok=True)


@contextlib.contextmanager
def making_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill inside the block, which is then put at `path`; nothing is there if the block fails.

    Raises OSError where the disk fails, and where a folder with something in it lies at `path` by then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        partial.mkdir()
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As `making_folder`, but one that lies at `path` makes way; what else it has stays in it.

    These are two renames; a kill just between them leaves the old folder beside, under a hidden name.
    """
    if not path.exists():
        with making_folder(path) as partial:
            yield partial
        return
    old = path.with_name(f".{path.name}.{uuid4().hex}.old")
    with contextlib.ExitStack() as stack:
        partial = stack.enter_context(making_folder(path))
        yield partial
        os.replace(path, old)
        try:
            stack.close()
        except BaseException:
            os.replace(old, path)
            raise
    for file in old.iterdir():
        if not (path / file.name).exists():
            os.replace(file, path / file.name)
    shutil.rmtree(old, ignore_errors=True)
