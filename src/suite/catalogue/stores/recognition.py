"""Recognises the folders of other programs by the names in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from suite.catalogue.entry import Entry
from suite.catalogue.stores import huggingface, lmstudio, ollama
from suite.catalogue.stores.huggingface import HuggingFaceRepository
from suite.catalogue.stores.ollama import OllamaStore


class Store(Protocol):
    """A folder whose layout says more of its models than the names of files."""

    folders: frozenset[str]
    """The folders in it that are the store's; what else is in it is as in any other folder."""

    def entries(self, failed: Callable[[OSError], None], warn: Callable[[str], None]) -> Iterator[Entry]:
        """Yield its models, and warn of what is not as it should be. Blocks.

        `failed` is told of each folder that cannot be listed: then models may be missing that are there.
        """
        ...


def store_at(directory: Path, names: Collection[str]) -> Store | None:
    """The store that this folder is, by the names of the folders in it; None if it is none."""
    if ollama.is_store(directory, names):
        return OllamaStore(directory)
    if huggingface.is_repository(directory.name) and huggingface.SNAPSHOTS in names:
        return HuggingFaceRepository(directory)
    return None


def labelled(entry: Entry) -> Entry:
    """An entry of a folder of files, with the program that the folder is of, as far as its path says.

    LM Studio's tree is a folder of files like any other, and so is a single snapshot in a cache.
    """
    directory = entry.path.parent
    if entry.source != "directory":
        return entry
    if (repository := lmstudio.repository(directory)) is not None:
        return replace(entry, source="lmstudio", repository=repository)
    if (home := huggingface.home(directory)) is not None:
        name, roots = huggingface.repository_name(home), (home.resolve(),)
        return replace(entry, source="huggingface", repository=name, roots=roots)
    return entry


def is_of_a_store(directory: Path) -> bool:
    """Whether a model directory is the folder of another program, or has one right in it."""
    file = Entry(ids=(), path=directory / "publisher" / "repository" / "file")
    if labelled(file).source != "directory":
        return True
    try:
        folders = [directory, *(path for path in directory.iterdir() if path.is_dir())]
        return any(_is_store(folder, [path.name for path in folder.iterdir()]) for folder in folders)
    except OSError:
        return False


def _is_store(directory: Path, names: Collection[str]) -> bool:
    return store_at(directory, names) is not None or any(map(huggingface.is_repository, names))
