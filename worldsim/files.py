"""Reading files that others may have damaged or made: only regular files of a sensible size, only plain JSON."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

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
