"""A node's own directory: made if it is not there, private, and held by one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from suite.errors import DataDirInUse, DataDirUnusable


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
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataDirInUse(
                f"another suite serves from {directory}: stop it, or choose another with --data-dir"
            ) from None
        yield
    finally:
        os.close(lock)
