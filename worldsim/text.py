"""Text that others wrote, such as names in a world's files: made safe to print, and to name files after."""

from __future__ import annotations

import re
import unicodedata

# Characters that show what follows them in another order than it is in.
REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
LONGEST_STEM = 80  # characters


def printable(text: str, *, keep: str = "\n\t") -> str:
    """The text with control characters, which a terminal obeys, as escapes ("\\x1b"); those in `keep` stay."""
    return "".join(c if c in keep or not _controls(c) else c.encode("unicode_escape").decode() for c in text)


def file_stem(name: str, otherwise: str) -> str:
    """A name as the first part of a file's name: letters, digits, ".", "_" and "-" of ASCII, or `otherwise` if none."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:LONGEST_STEM] or otherwise


def _controls(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in REORDERING
