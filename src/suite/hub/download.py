"""Brings a model into a folder: parts that can be gone on with, and names that only whole files get."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedWriter, FileIO
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, Protocol

from suite.errors import DigestMismatch, DiskFull, FileNameTaken, InvalidRequest, PullRunning
from suite.hub.offers import HubFile
from suite.units import size

PART_SUFFIX = ".part"
"""What a file's name ends in until all of it is there and checked."""

_READ_BYTES: Final = 1 << 20
_NO_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)

OnBytes = Callable[[int], None]
"""Called with how many bytes of all files are here."""
Check = Callable[[], None]


class Origin(Protocol):
    """Where files come from."""

    def append(self, file: HubFile, part: BufferedWriter) -> None:
        """Download what the part of a file does not have yet."""
        ...


class Downloaded(NamedTuple):
    """The files that are here now."""

    paths: list[Path]
    replaced: list[Path]
    """Those of them that had other content before, as those of another revision."""


def download(
    origin: Origin,
    files: Sequence[HubFile],
    folder: Path,
    on_bytes: OnBytes,
    *,
    replace: bool = True,
    check: Check = lambda: None,
) -> Downloaded:
    """Bring files into a folder, which is made, under their paths in the repository. Blocks.

    A file gets its name when all files are here and have the right digest; the first one is named last, since
    a model that is split is found by it. Until then, and if this is interrupted, each stands beside its name
    with `.part` behind it, and the next call goes on with that. Without `replace`, a file of the same name
    that has other content stays, and nothing is brought. `check` is called while files are read, and
    may raise to end it.

    Raises DigestMismatch, DiskFull, PullRunning, FileNameTaken, InvalidRequest, and whatever `origin` raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        targets = [(file, _target(file, folder)) for file in files]
        missing = [(file, path) for file, path in targets if not _has_digest(file, path, check)]
        if not replace:
            _check_names([path for _, path in missing])
        _check_space(missing, folder)
        here = sum(file.bytes for file in files) - sum(file.bytes for file, _ in missing)
        for file, path in missing:
            _bring(origin, file, _part(path), _counted_from(here, on_bytes), check)
            here += file.bytes
        replaced = [path for _, path in missing if path.exists()]
        for _, path in reversed(missing):
            _part(path).replace(path)
    return Downloaded([path for _, path in targets], replaced)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Be the only process that downloads into a folder, if its drive has locks. Raises PullRunning."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PullRunning(f"another process is downloading into {folder}: wait for it") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def _target(file: HubFile, folder: Path) -> Path:
    """Where a file goes. Raises InvalidRequest for a path that would lead out of the folder."""
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts:
        raise InvalidRequest(f"a file is named {file.path!r}, which may not be written: choose another")
    return folder / path


def _counted_from(before: int, on_bytes: OnBytes) -> OnBytes:
    return lambda count: on_bytes(before + count)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}{PART_SUFFIX}")


def _check_names(paths: Iterable[Path]) -> None:
    if (taken := next((path for path in paths if path.exists()), None)) is not None:
        raise FileNameTaken(f"{taken} has other content, and stays: rename or remove it, then try again")


def _check_space(missing: Sequence[tuple[HubFile, Path]], folder: Path) -> None:
    needed = sum(file.bytes - min(file.bytes, _size(_part(path))) for file, path in missing)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFull(
            f"{folder} has {size(free)} free, and {size(needed)} are missing: make room, then try again"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _bring(origin: Origin, file: HubFile, part: Path, on_bytes: OnBytes, check: Check) -> None:
    """Complete a part and check it."""
    part.parent.mkdir(parents=True, exist_ok=True)
    resumed = _append(origin, file, part, on_bytes)
    if _has_digest(file, part, check):
        return
    part.unlink()
    if not resumed:
        name = PurePosixPath(file.path).name
        raise DigestMismatch(f"{name} has another SHA-256 than it should have, and was removed: try again")
    _bring(origin, file, part, on_bytes, check)  # what was there may have been of another version


def _append(origin: Origin, file: HubFile, part: Path, on_bytes: OnBytes) -> bool:
    """Download what a part does not have; whether it had something before."""
    try:
        with _Reporting(FileIO(part, "ab"), on_bytes) as writer:
            if writer.tell() > file.bytes:
                writer.seek(0)
                writer.truncate()
            resumed = writer.tell() > 0
            origin.append(file, writer)
            writer.flush()
            os.fsync(writer.fileno())
    finally:
        if _size(part) == 0 < file.bytes:  # nothing to go on with
            part.unlink(missing_ok=True)
    return resumed


class _Reporting(BufferedWriter):
    """A file that tells how far it is, whenever something is written."""

    def __init__(self, raw: FileIO, on_bytes: OnBytes) -> None:
        super().__init__(raw)
        self._on_bytes = on_bytes

    def write(self, data: Any, /) -> int:
        """Write as any file does."""
        written = super().write(data)
        self._on_bytes(self.tell())
        return written


def _has_digest(file: HubFile, path: Path, check: Check) -> bool:
    """Whether the content is what it should be, as far as that is known."""
    if not path.is_file() or _size(path) != file.bytes:
        return False
    if file.sha256 is None:
        return True
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as content:
        while chunk := content.read(_READ_BYTES):
            check()
            digest.update(chunk)
    return digest.hexdigest() == file.sha256
