"""Reads the small files of a store: manifests, parameters, references."""

from __future__ import annotations

import errno
import stat
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 1 << 20
"""Of one file; usual ones have a few thousand."""


def read_small(path: Path) -> bytes:
    """The content of a file of the store itself.

    Raises OSError, also for a link, which may lead out of the store, and for what is not a file or too large.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if status.st_size > MAX_BYTES:
        raise OSError(errno.EFBIG, f"it has over {MAX_BYTES} bytes")
    return path.read_bytes()
