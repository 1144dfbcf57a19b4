"""The cache of huggingface_hub, whose layout its documentation describes ("Understand caching")::

    models--org--name/refs/main                    the current revision
    models--org--name/snapshots/<revision>/f.gguf  a link to ../../blobs/<sha256>
    models--org--name/blobs/<sha256>.incomplete    a download that has not ended
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from suite.catalogue.stores.store import StoredModel
from suite.engine.gguf.file import split_name

_REPOSITORY = re.compile(r"models--(?P<name>.+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAGIC = b"GGUF"
_SHORT_REVISION = 7


def is_repository(name: str) -> bool:
    """Whether a folder of this name is that of a model repository in a cache."""
    return _REPOSITORY.fullmatch(name) is not None


class HuggingFaceCache:
    """A cache of model repositories, or one such repository."""

    def __init__(self, repositories: Iterable[Path]) -> None:
        self._repositories = tuple(repositories)

    def models(self, warnings: list[str]) -> Iterator[StoredModel]:
        """Yield the models of all repositories.

        Of a file that several revisions have, the current one has the file's name, and others do only if
        their content differs, with the revision behind an `@`.
        """
        for repository in sorted(self._repositories):
            yield from _models(repository)
            if unfinished := _unfinished(repository):
                warnings.append(f"{_name(repository)} has a download that has not ended: {unfinished}")


def _name(repository: Path) -> str:
    match = _REPOSITORY.fullmatch(repository.name)
    assert match is not None, "only folders of such names are repositories"
    return match["name"].replace("--", "/")


def _models(repository: Path) -> Iterator[StoredModel]:
    newest: dict[str, set[str]] = {}  # the blobs that were seen of each file
    for age, snapshot in enumerate(_snapshots(repository)):
        for path in _model_files(snapshot):
            within = path.relative_to(snapshot).as_posix()
            blob = os.path.realpath(path)
            seen = newest.setdefault(within, set())
            if blob in seen:
                continue
            revision = snapshot.name if age and seen else None
            seen.add(blob)
            yield StoredModel(
                name=path.name,
                path=path,
                home=repository,
                source="huggingface",
                repository=_name(repository),
                revision=revision[:_SHORT_REVISION] if revision else None,
                sha256=_claimed(blob),
            )


def _snapshots(repository: Path) -> list[Path]:
    """The revisions, the current one first, then from new to old."""
    try:
        snapshots = [Path(entry) for entry in os.scandir(repository / "snapshots") if entry.is_dir()]
    except OSError:
        return []
    current = _current_revision(repository)
    return sorted(snapshots, key=lambda path: (path.name != current, -path.stat().st_mtime_ns, path.name))


def _current_revision(repository: Path) -> str | None:
    try:
        return (repository / "refs" / "main").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _model_files(snapshot: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(snapshot):
        names.sort()
        for name in sorted(files):
            if is_model_file(name):
                yield Path(directory, name)


def is_model_file(name: str) -> bool:
    """Whether a file of this name is a model: not a later part of one, and not a projector beside one."""
    split = split_name(name)
    return (
        name.lower().endswith(".gguf")
        and not name.startswith(".")
        and not is_projector(name)
        and (split is None or split[1] == 1)
    )


def is_projector(name: str) -> bool:
    """Whether a file of this name turns images into tokens for the model beside it."""
    return "mmproj" in name.lower()


def _claimed(blob: str) -> str | None:
    """The digest that the name of a blob is; files that are not large have another kind of name."""
    name = os.path.basename(blob)  # noqa: PTH119
    return name if _SHA256.fullmatch(name) else None


def _unfinished(repository: Path) -> str | None:
    """The name of a blob that is no whole model yet."""
    try:
        entries = sorted(entry.path for entry in os.scandir(repository / "blobs"))
    except OSError:
        return None
    for path in entries:
        if path.endswith(".incomplete") and _starts_like_a_model(path):
            return Path(path).name
    return None


def _starts_like_a_model(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False
