"""The cache of huggingface_hub, whose layout its documentation describes ("Understand caching")::

    models--org--name/refs/main                    the current revision
    models--org--name/snapshots/<revision>/f.gguf  a link to ../../blobs/<sha256>
    models--org--name/blobs/<sha256>.incomplete    a download that has not ended

Where links are not possible, the file itself is in the snapshot.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from suite.catalogue.entry import Entry
from suite.catalogue.folder import ids_of, plain_id
from suite.catalogue.outage import outage_at
from suite.catalogue.stores.small_file import read_small
from suite.engine.gguf.names import is_model_name, is_projector_name, part_names, split_name

SNAPSHOTS: Final = "snapshots"

_REPOSITORY = re.compile(r"models--(?P<name>.+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAGIC = b"GGUF"
_UNFINISHED = ".incomplete"
_SHORT_REVISION = 7


def is_repository(name: str) -> bool:
    """Whether a folder of this name is that of a model repository in a cache."""
    return _REPOSITORY.fullmatch(name) is not None


def repository_name(home: Path) -> str:
    """The name of a repository, such as `org/name`, by its folder."""
    match = _REPOSITORY.fullmatch(home.name)
    assert match is not None, "only folders of such names are repositories"
    return match["name"].replace("--", "/")


def home(directory: Path) -> Path | None:
    """The folder of the repository that a folder of files is a snapshot of; None if it is none."""
    for folder, above in zip(directory.parents, directory.parents[1:], strict=False):
        if folder.name == SNAPSHOTS and is_repository(above.name):
            return above
    return None


class HuggingFaceRepository:
    """The folder of one model repository in a cache."""

    folders = frozenset({SNAPSHOTS, "blobs", "refs"})

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def entries(self, failed: Callable[[OSError], None], warn: Callable[[str], None]) -> Iterator[Entry]:
        """Yield the models of the repository, and warn of a download that has not ended.

        Of a file that several revisions have, the current one goes by the file's name; the others only
        count if their content differs, and have the beginning of their revision in the id, behind an `@`.
        """
        yield from _entries(self._directory, failed)
        if blob := _unfinished(self._directory):
            warn(f"{repository_name(self._directory)!r} has a download that has not ended: {blob}")


def _entries(repository: Path, failed: Callable[[OSError], None]) -> Iterator[Entry]:
    name, roots = repository_name(repository), (repository.resolve(),)
    blobs_of: dict[Path, set[str]] = {}
    for snapshot in _snapshots(repository, failed):
        for path in _model_files(snapshot, failed):
            within = path.relative_to(snapshot)
            seen = blobs_of.setdefault(within, set())
            blob = os.path.realpath(path)
            if blob in seen:
                continue
            at = f"@{snapshot.name[:_SHORT_REVISION]}" if seen else ""
            seen.add(blob)
            yield Entry(
                ids=ids_of(f"{plain_id(path.name)}{at}", PurePosixPath("/", name, within.parent)),
                path=path,
                named_by=repository / f"{within}{at}",  # whichever snapshot that is at the time
                source="huggingface",
                repository=name,
                projectors=_projectors(path.parent),
                roots=roots,
                sha256=_claimed(path, blob),
            )


def _snapshots(repository: Path, failed: Callable[[OSError], None]) -> list[Path]:
    """The revisions, the current one first, then from new to old."""
    try:
        current = _current_revision(repository)
        snapshots = [entry for entry in os.scandir(repository / SNAPSHOTS) if entry.is_dir()]
        snapshots.sort(key=lambda entry: (entry.name != current, -entry.stat().st_mtime_ns, entry.name))
    except OSError as error:
        failed(error)
        return []
    return [Path(entry) for entry in snapshots]


def _current_revision(repository: Path) -> str | None:
    """The revision that `main` means; None if nothing says it. Raises OSError if that is not known now."""
    reference = repository / "refs" / "main"
    try:
        return read_small(reference).decode("ascii", errors="replace").strip()
    except OSError as error:
        if outage_at(reference, error) is not None:
            raise
        return None


def _model_files(snapshot: Path, failed: Callable[[OSError], None]) -> Iterator[Path]:
    for directory, names, files in os.walk(snapshot, onerror=failed):
        names.sort()
        yield from (Path(directory, name) for name in sorted(files) if _is_first_of_model(name))


def _projectors(folder: Path) -> tuple[Path, ...]:
    """The projectors in a folder; none if it cannot be read, as its models say then."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if is_projector_name(entry.name))
    except OSError:
        return ()
    return tuple(folder / name for name in names)


def _is_first_of_model(name: str) -> bool:
    return is_model_name(name) and part_names(name)[0] == name


def _claimed(path: Path, blob: str) -> str | None:
    """The digest of a model that its blob is named by; None for a small file, and for one of several."""
    name = os.path.basename(blob)  # noqa: PTH119
    return name if split_name(path.name) is None and _SHA256.fullmatch(name) else None


def _unfinished(repository: Path) -> str | None:
    """The name of a blob that is no whole model yet."""
    try:
        blobs = sorted(entry.name for entry in os.scandir(repository / "blobs") if entry.is_file())
    except OSError:
        return None
    unfinished = (name for name in blobs if name.endswith(_UNFINISHED))
    return next((name for name in unfinished if _starts_like_a_model(repository / "blobs" / name)), None)


def _starts_like_a_model(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False
