"""Walks a plain folder of model files, by names alone. Everything here blocks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Final

from suite.catalogue.entry import Entry
from suite.engine.gguf.file import split_name

SUFFIX: Final = ".gguf"


def entries(
    top: Path, *, failed: Callable[[OSError], None], left_out: Callable[[Path, str], None]
) -> Iterator[Entry]:
    """Yield everything below `top` that is named as a model; a folder comes before its subfolders.

    `failed` is told of each folder that cannot be read, `left_out` of what is not followed, and why.
    """
    for directory, names, files in os.walk(top, onerror=failed):
        models = {name for name in (*names, *files) if name.lower().endswith(SUFFIX)}
        for name in sorted(models):
            model_id = plain_id(name)
            if model_id is not None:
                path = Path(directory, name)
                yield Entry(ids=ids_of(model_id, path.parent), path=path)
        names[:] = sorted(name for name in set(names) - models if not name.startswith("."))
        for name in names:
            if (path := Path(directory, name)).is_symlink():
                left_out(path, "links to directories are not followed")


def plain_id(file_name: str) -> str | None:
    """The id derived from a file name; None for hidden files and the later parts of a split model."""
    split = split_name(file_name)
    if split is not None:
        return split[0] if split[1] == 1 else None
    return None if file_name.startswith(".") else file_name[: -len(SUFFIX)]


def ids_of(plain: str, folder: PurePath) -> tuple[str, ...]:
    """The ids of a file in a folder: ``model``, ``bob/model``, ``models/bob/model`` and so on."""
    ids = [plain]
    for name in reversed(folder.parts[1:]):
        ids.append(f"{name}/{ids[-1]}")
    return tuple(ids)
