"""Locks, identifies, replaces and sets aside the file of a read model."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """Identifies a file, whatever its name."""

    device: int
    inode: int


class InUse(OSError):
    """Another process holds the lock of the file."""


class Lock:
    """A lock for the one process that writes the file. It ends with the process at the latest."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.lock")
        self._held: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._held is not None

    def hold(self) -> None:
        """Acquire the lock unless it is held. Creates the directory. Raises InUse, or another OSError.

        If the lock file was removed, for example with its directory, a lock on it excludes nobody: it is then
        acquired again on a new file.
        """
        if self._held is not None and identity(self._path) != _identity(os.fstat(self._held)):
            os.close(self._held)
            self._held = None
        while self._held is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The previous holder may have removed the file meanwhile: this lock would exclude nobody.
                if identity(self._path) == _identity(os.fstat(lock)):
                    self._held, lock = lock, -1
            except BlockingIOError as error:
                raise InUse(error.errno, "in use by another process") from None
            finally:
                if lock >= 0:
                    os.close(lock)

    def release(self) -> None:
        """Release the lock and remove its file."""
        held, self._held = self._held, None
        if held is not None:
            with suppress(OSError):
                self._path.unlink()
            os.close(held)


def identity(path: Path) -> Identity | None:
    """The identity of the file at a path; None if there is none. Raises OSError."""
    try:
        return _identity(path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return None


def made(path: Path) -> Identity | None:
    """The identity of the file at a path, which is created empty if it is missing. Raises OSError."""
    if not path.exists():
        path.touch(mode=0o600)
    return identity(path)


def beside(path: Path) -> tuple[Path, ...]:
    """The files that SQLite keeps next to a database.

    They must never be combined with another database (SQLite, "How To Corrupt An SQLite Database File").
    """
    return tuple(path.with_name(f"{path.name}-{kind}") for kind in ("wal", "shm", "journal"))


def remove(path: Path) -> None:
    """Delete a file, and the files that SQLite keeps next to it. Raises OSError."""
    for each in (path, *beside(path)):
        each.unlink(missing_ok=True)


def replace(fresh: Path, path: Path) -> None:
    """Replace a file with a settled one. This process must not have either open. Raises OSError.

    The new file gets the permissions of the old one.
    """
    if path.exists():
        fresh.chmod(path.stat().st_mode & 0o777)
    for each in beside(path):
        each.unlink(missing_ok=True)
    fresh.replace(path)


def set_aside(path: Path, why: str, at: datetime | None = None) -> Path:
    """Rename a file, with the reason and a date (or else a number) in its new name. Raises OSError.

    The files that SQLite keeps next to it are renamed too. Returns the new path.
    """
    reason = why if at is None else f"{why}-{at:%Y%m%dT%H%M%S}"
    kept, number = path.with_name(f"{path.stem}.{reason}{path.suffix}"), 1
    while at is None or kept.exists():
        kept = path.with_name(f"{path.stem}.{reason}-{number}{path.suffix}")
        if not kept.exists():
            break
        number += 1
    for each, other in zip(beside(path), beside(kept), strict=True):
        if each.exists():
            each.replace(other)
    path.replace(kept)
    return kept


def _identity(stat: os.stat_result) -> Identity:
    return Identity(stat.st_dev, stat.st_ino)
