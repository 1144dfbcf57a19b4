"""Names on disk, which may be any bytes, as text for people and messages."""

from __future__ import annotations

from pathlib import Path


def printable(text: str | Path) -> str:
    """A text, or a path, with escapes for bytes in it that are not UTF-8."""
    return str(text).encode(errors="surrogateescape").decode(errors="backslashreplace")
