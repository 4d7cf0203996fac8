"""Text: tables; what others wrote, such as names in a world's files, safe to print and to name files after."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

# Characters that show what follows them in another order than it is in.
REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
LONGEST_STEM = 80  # characters


def printable(text: str, *, keep: str = "\n\t") -> str:
    """The text with control characters, which a terminal obeys, as escapes ("\\x1b"); those in `keep` stay."""
    return "".join(c if c in keep or not _controls(c) else c.encode("unicode_escape").decode() for c in text)


def file_stem(name: str, otherwise: str) -> str:
    """A name as the first part of a file's name: letters, digits, ".", "_" and "-" of ASCII, or `otherwise` if none."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:LONGEST_STEM] or otherwise


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that is aligned on a console, too: the first column to the left, numbers to the right.

    >>> print(table(["envs", "steps/s"], [["1", "66.2"], ["16", "411.0"]]))
    | envs | steps/s |
    |------|--------:|
    | 1    |    66.2 |
    | 16   |   411.0 |
    """
    lines = [list(titles), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first, *others = widths
    rule = "|".join(["-" * (first + 2), *("-" * (width + 1) + ":" for width in others)])
    head, *body = (
        " | ".join([line[0].ljust(first), *(cell.rjust(width) for cell, width in zip(line[1:], others, strict=True))])
        for line in lines
    )
    return "\n".join([f"| {head} |", f"|{rule}|", *(f"| {line} |" for line in body)])


def interval_text(interval: Sequence[float], digits: int) -> str:
    """An interval in brackets: "[0.84, 1.17]"."""
    return f"[{', '.join(f'{end:.{digits}f}' for end in interval)}]"


def _controls(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in REORDERING
