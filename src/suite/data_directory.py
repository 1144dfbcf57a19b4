"""A node's own directory: made if it is not there, private, and held by one process at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from suite.errors import DataDirInUse, DataDirUnusable

logger = logging.getLogger("suite.node")

UMASK: Final = 0o077
"""For a process that serves, and so for all that it starts: what they write is for their user alone."""

IDS: Final = "ids.json"
"""Its file of which id means which model file (`suite.catalogue.ids`), which a backup has too."""

_PRIVATE: Final = ("nats", "projections", "snapshots")
"""What earlier versions may have made for others to read. The directory itself is whoever made it's own."""

_LOCK_PAUSES: Final = (0.01, 0.05, 0.25)
"""Seconds between attempts to lock the directory."""


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold the directory for as long as this is entered; the lock goes with the process, however it ends.

    Raises DataDirUnusable, or DataDirInUse while another process holds it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataDirUnusable(
            f"the data directory {directory} cannot be written ({error.strerror}): "
            "choose another with --data-dir or mend its rights"
        ) from None
    try:
        if not _lock(lock):
            raise DataDirInUse(
                f"another suite serves from {directory}: stop it, or choose another with --data-dir"
            )
        for name in _PRIVATE:
            _tighten(directory / name)
        yield
    finally:
        os.close(lock)


def _lock(file: int) -> bool:
    """Lock the file, unless another process holds it. Who asks with `is_held` does so for an instant."""
    for pause in (*_LOCK_PAUSES, None):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if pause is not None:
                time.sleep(pause)
        else:
            return True
    return False


def is_held(directory: Path) -> bool:
    """Whether a process holds the directory at the moment."""
    try:
        lock = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here, so nobody has one
        return False
    finally:
        os.close(lock)
    return False


def write_private(path: Path, content: bytes) -> None:
    """Replace a file by one that only its owner may read. After a crash it has the old or the new content.

    Raises OSError.
    """
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)  # left behind by a crash, maybe with other rights
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _tighten(top: Path) -> None:
    """Take from all others what rights they have to a directory and what is in it; links are not followed."""
    places = [
        top,
        *(Path(parent, name) for parent, names, files in os.walk(top) for name in (*names, *files)),
    ]
    for place in places:
        try:
            mode = place.lstat().st_mode
            if not stat.S_ISLNK(mode) and mode & UMASK:
                place.chmod(stat.S_IMODE(mode) & ~UMASK)
        except FileNotFoundError:
            continue
        except OSError as error:
            logger.warning("others may read %s (%s): set its rights", place, error.strerror)
