"""What commands print, and a check before long work begins that their files can be written."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from worldsim.io.files import writing
from worldsim.io.text import printable


def survive_any_locale() -> None:
    """Let what is printed come out on every console: characters that its encoding lacks become escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Print lines that may hold text from files: a terminal obeys nothing in them."""
    print(printable(text))


def require_writable(path: Path) -> None:
    """Make the folder of `path` and see that a file can be written there; what is there stays as it is."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        path.open("ab").close()
        if not existed:
            path.unlink()
