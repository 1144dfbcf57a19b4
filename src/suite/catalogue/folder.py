"""Walks a plain folder of model files, by names alone. Everything here blocks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Final

from suite.catalogue.entry import Entry
from suite.engine.gguf.file import split_name

SUFFIX: Final = ".gguf"


def entries(
    top: Path,
    *,
    failed: Callable[[OSError], None],
    left_out: Callable[[Path, str], None],
    store_at: Callable[[Path, Sequence[str]], Iterable[Entry] | None],
    follow_links: bool,
) -> Iterator[Entry]:
    """Yield everything below `top` that is named as a model; a folder comes before its subfolders.

    `failed` is told of each folder that cannot be read, `left_out` of what is not followed, and why.
    `store_at` has the models of a folder in which file names do not say what is there.
    """
    walked: set[str] = set()
    for directory, names, files in os.walk(top, onerror=failed, followlinks=follow_links):
        if follow_links and not _first_time(directory, walked):
            names.clear()
            continue
        if (stored := store_at(Path(directory), names)) is not None:
            names.clear()
            yield from stored
            continue
        models = {name for name in (*names, *files) if name.lower().endswith(SUFFIX)}
        for name in sorted(models):
            model_id = plain_id(name)
            if model_id is not None:
                path = Path(directory, name)
                yield Entry(ids=ids_of(model_id, path.parent), path=path)
        names[:] = sorted(name for name in set(names) - models if not name.startswith("."))
        for name in names:
            if not follow_links and (path := Path(directory, name)).is_symlink():
                left_out(path, 'links to directories are not followed; follow_links = "anywhere" allows it')


def _first_time(directory: str, walked: set[str]) -> bool:
    """Whether a folder was not walked yet, by whatever links: they may lead in circles."""
    real = os.path.realpath(directory)
    new = real not in walked
    walked.add(real)
    return new


def is_model(file_name: str) -> bool:
    """Whether a file of this name is a model: neither a later part of one, nor a projector beside one."""
    return (
        file_name.lower().endswith(SUFFIX) and plain_id(file_name) is not None and not is_projector(file_name)
    )


def is_projector(file_name: str) -> bool:
    """Whether a file of this name makes images into tokens of the model beside it; it is no model."""
    return "mmproj" in file_name.lower()


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
