"""Quantities in the words that people read, the same wherever the product says them."""

from __future__ import annotations

from typing import Final

_BINARY: Final = ((1 << 30, "GiB", 2), (1 << 20, "MiB", 1), (1 << 10, "KiB", 1))


def size(count: int) -> str:
    """Format a number of bytes for people: to 0.01 GiB, 0.1 MiB, 0.1 KiB, or exact."""
    for unit, name, digits in _BINARY:
        if count >= unit:
            return f"{count / unit:.{digits}f} {name}"
    return f"{count} byte" if count == 1 else f"{count} bytes"
