"""Recognises the layouts of other programs by the names in a folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from suite.catalogue.stores.huggingface import HuggingFaceCache, is_repository
from suite.catalogue.stores.ollama import OllamaStore
from suite.catalogue.stores.store import Store

_OLLAMA = frozenset({"manifests", "blobs"})
_SNAPSHOTS = "snapshots"


def store_at(directory: Path, names: Collection[str]) -> Store | None:
    """The store whose folder this is, by the names of the folders in it; None if it is no store's.

    LM Studio's tree needs no walker of its own: it is a folder of files.
    """
    if _OLLAMA.issubset(names):
        return OllamaStore(directory)
    if is_repository(directory.name) and _SNAPSHOTS in names:
        return HuggingFaceCache([directory])
    if repositories := [directory / name for name in names if is_repository(name)]:
        return HuggingFaceCache(repositories)
    return None
