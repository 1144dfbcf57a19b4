"""Walks a plain folder of model files, by names alone. Everything here blocks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from suite.catalogue.entry import Entry
from suite.catalogue.unfinished import is_control_file, target_of
from suite.engine.gguf.names import SUFFIX, is_projector_name, part_names, split_name


class Store(NamedTuple):
    """What a folder has whose layout is that of another program."""

    entries: Iterable[Entry]
    folders: frozenset[str]
    """The folders in it that these are from."""


def entries(
    top: Path,
    *,
    failed: Callable[[OSError], None],
    left_out: Callable[[Path, str], None],
    store_at: Callable[[Path, Sequence[str]], Store | None],
    follow_links: bool,
) -> Iterator[Entry]:
    """Yield everything below `top` that is named as a model; a folder comes before its subfolders.

    `failed` is told of each folder that cannot be read, `left_out` of what is not followed, and why.
    `store_at` knows a folder in which file names do not say all: its models come first, and of its own
    folders no others.
    """
    walked: set[str] = set()
    for directory, names, files in os.walk(top, onerror=failed, followlinks=follow_links):
        if follow_links and not _first_time(directory, walked):
            names.clear()
            continue
        if (store := store_at(Path(directory), names)) is not None:
            names[:] = [name for name in names if name not in store.folders]
            yield from store.entries
        models = {name for name in (*names, *files) if _is_model(name)}
        yield from _models(Path(directory), models)
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


def plain_id(file_name: str) -> str:
    """The id derived from the name of a model file; of a split model, from that of its first part."""
    split = split_name(file_name)
    return file_name[: -len(SUFFIX)] if split is None else split[0]


def ids_of(plain: str, folder: PurePath) -> tuple[str, ...]:
    """The ids of a file in a folder: ``model``, ``bob/model``, ``models/bob/model`` and so on."""
    ids = [plain]
    for name in reversed(folder.parts[1:]):
        ids.append(f"{name}/{ids[-1]}")
    return tuple(ids)


def _is_model(name: str) -> bool:
    """Whether a file is listed; one that is no model to look at it says so itself."""
    return not name.startswith(".") and (name.lower().endswith(SUFFIX) or target_of(name) is not None)


def _models(folder: Path, names: set[str]) -> Iterator[Entry]:
    """The models of one folder, each with the file that shows that it is not whole, if there is one."""
    unfinished: dict[str, str | None] = {}
    for name in sorted(names):
        target = target_of(name)
        first = part_names(target or name)[0]
        if first in names and not (is_control_file(name) and target in names):
            unfinished.setdefault(first, None)
        else:
            unfinished[first] = name
    projectors = tuple(folder / name for name in sorted(filter(is_projector_name, names)))
    for first, other in unfinished.items():
        yield Entry(
            projectors=() if is_projector_name(first) else projectors,
            ids=ids_of(plain_id(first), folder),
            path=folder / first,
            unfinished=None if other is None else folder / other,
        )
