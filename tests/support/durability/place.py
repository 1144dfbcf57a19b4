"""Where a service under test is: on a disk of its own, and in a control group where one can be made."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from support.cgroups import real_cgroup
from support.disks import SmallDisk, small_disk

DISK_MEGABYTES: Final = 256
MEMORY_BYTES: Final = 1500 << 20
"""Twice what the service has with its small models."""


class Place(NamedTuple):
    """A disk that can be filled, and a group whose memory can be used up."""

    disk: SmallDisk
    group: Path | None


@contextmanager
def place(directory: Path, *, megabytes: int = DISK_MEGABYTES) -> Iterator[Place]:
    """Skips the test where no file system can be mounted; without a group nothing can run out of memory."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(directory / "disk", megabytes=megabytes))
        group: Path | None = None
        try:
            group = stack.enter_context(real_cgroup("memory", {"memory.limit_in_bytes": str(MEMORY_BYTES)}))
        except pytest.skip.Exception as reason:
            sys.stderr.write(f"nothing runs out of memory here: {reason}\n")
        yield Place(disk, group)
