"""The place of a read model's file: what lies there, who holds it, and how a file comes in and out of it."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """Which file it is, whatever its name."""

    device: int
    inode: int


class InUse(OSError):
    """Another process keeps the file."""


class Lock:
    """Held by the one process that writes the file, for as long as it lives at most."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.lock")
        self._held: int | None = None

    @property
    def is_held(self) -> bool:
        """By this one."""
        return self._held is not None

    def hold(self) -> None:
        """Take it, if it is not held; the directory is made for it. Raises InUse, or another OSError.

        One whose file was removed with all else keeps nobody out, so it is taken again.
        """
        if self._held is not None and identity(self._path) != _identity(os.fstat(self._held)):
            os.close(self._held)
            self._held = None
        while self._held is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The one that held it may have removed it meanwhile: then it keeps nobody out.
                if identity(self._path) == _identity(os.fstat(lock)):
                    self._held, lock = lock, -1
            except BlockingIOError as error:
                raise InUse(error.errno, "in use by another process") from None
            finally:
                if lock >= 0:
                    os.close(lock)

    def release(self) -> None:
        """Let others have it."""
        held, self._held = self._held, None
        if held is not None:
            with suppress(OSError):
                self._path.unlink()
            os.close(held)


def identity(path: Path) -> Identity | None:
    """Which file is there under this name; None if there is none. Raises OSError."""
    try:
        return _identity(path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return None


def made(path: Path) -> Identity | None:
    """Which file is there, an empty one if there was none. Raises OSError."""
    if not path.exists():
        path.touch(mode=0o600)
    return identity(path)


def beside(path: Path) -> tuple[Path, ...]:
    """What SQLite keeps for a file, which must never be taken for another's (SQLite, "How to corrupt")."""
    return tuple(path.with_name(f"{path.name}-{kind}") for kind in ("wal", "shm", "journal"))


def remove(path: Path) -> None:
    """Take a file away, and what SQLite keeps beside it. Raises OSError."""
    for each in (path, *beside(path)):
        each.unlink(missing_ok=True)


def replace(fresh: Path, path: Path) -> None:
    """Put a settled file in the place of another, which nobody of this process has open. Raises OSError.

    Who could read the one may read the other.
    """
    if path.exists():
        fresh.chmod(path.stat().st_mode & 0o777)
    for each in beside(path):
        each.unlink(missing_ok=True)
    fresh.replace(path)


def set_aside(path: Path, why: str, at: datetime | None = None) -> Path:
    """Keep a file under another name, with a date or else a number in it; the name. Raises OSError."""
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
