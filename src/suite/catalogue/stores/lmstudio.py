"""LM Studio's tree of models: ``~/.lmstudio/models/publisher/repository/file.gguf``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_HOMES: Final = (".lmstudio", "lm-studio")
"""The names of its folder: of today, and of its first versions (`~/.cache/lm-studio`)."""


def repository(directory: Path) -> str | None:
    """The `publisher/repository` of the files in a folder; None if it is no folder of LM Studio's."""
    parts = directory.parts
    for index in range(len(parts) - 3):
        if parts[index] in _HOMES and parts[index + 1] == "models":
            return "/".join(parts[index + 2 : index + 4])
    return None
