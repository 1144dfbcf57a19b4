"""LM Studio's tree of models: ``~/.lmstudio/models/publisher/repository/file.gguf``."""

from __future__ import annotations

from pathlib import Path

_HOMES = (".lmstudio", "lm-studio")
"""The names of its folder, of today and of its first versions (`~/.cache/lm-studio`)."""


def lmstudio_repository(path: Path) -> str | None:
    """The `publisher/repository` that a file of LM Studio is from; None for a file that is none of its."""
    parts = path.parts
    for home in _HOMES:
        for index, part in enumerate(parts[:-4]):
            if part == home and parts[index + 1] == "models":
                return "/".join(parts[index + 2 : index + 4])
    return None
