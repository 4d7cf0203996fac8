"""Files that commands write: checked before long work begins, and errors that name the path."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from worldsim.errors import InvalidInput


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong on the disk inside this block into InvalidInput."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"cannot write {str(path)!r} ({error.strerror or error}); "
            "give a path that can be written, on a disk with space"
        ) from error


def require_writable(path: Path) -> None:
    """Make the folder of `path` and see that a file can be written there; what is there stays as it is."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        path.open("ab").close()
        if not existed:
            path.unlink()


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as an indented JSON file."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=2) + "\n")
