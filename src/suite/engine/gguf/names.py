"""What the name of a GGUF file says: a model, a part of one, or something that belongs to one."""

from __future__ import annotations

import re
from typing import Final

SUFFIX: Final = ".gguf"
MAX_PARTS: Final = 1024

_SPLIT: Final = re.compile(r"(?P<base>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf", re.DOTALL)
_COMPANIONS: Final = ("mmproj", "imatrix")


def is_model_name(file_name: str) -> bool:
    """Whether a file of this name is a model or a part of one."""
    hidden = file_name.startswith(".")
    return file_name.lower().endswith(SUFFIX) and not hidden and not is_companion(file_name)


def is_companion(file_name: str) -> bool:
    """Whether a file of this name belongs to a model and is none: a projector, an importance matrix."""
    return any(word in file_name.lower() for word in _COMPANIONS)


def is_projector_name(file_name: str) -> bool:
    """Whether a file of this name is a projector (mmproj)."""
    name = file_name.lower()
    return "mmproj" in name and name.endswith(SUFFIX) and not name.startswith(".")


def split_name(file_name: str) -> tuple[str, int, int] | None:
    """Split a name such as ``big-00001-of-00003.gguf`` into base name, part number and number of parts."""
    match = _SPLIT.fullmatch(file_name)
    return (match["base"], int(match["part"]), int(match["parts"])) if match else None


def part_names(file_name: str) -> list[str]:
    """The names of all parts of the model that a file is of, the first `MAX_PARTS` at most."""
    split = split_name(file_name)
    if split is None:
        return [file_name]
    base, _, parts = split
    return [f"{base}-{part:05}-of-{parts:05}{SUFFIX}" for part in range(1, min(parts, MAX_PARTS) + 1)]
