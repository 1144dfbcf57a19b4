"""What a process may take: getrlimit(2)."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Final

OPEN_FILES: Final = 4096
"""A model has some dozens: its parts, NATS, a socket a grammar, those of the GPU's driver."""
MORE_THREADS: Final = 4096
"""How many threads more than now there may be on this machine before no more can be started from here."""
_BASE_BYTES: Final = 2 << 30
"""For Python, libraries and drivers, beside what the model takes."""
_BYTES_A_CORE: Final = 16 << 20
"""For the stacks of threads, which count whole, whatever is used of them."""
_MIN_FILE_BYTES: Final = 16 << 20


def limit(*, memory_bytes: int, file_bytes: int) -> None:
    """Limit this process, and each that it starts, for good. Raises OSError.

    `memory_bytes`: what models may take. It limits memory of the process's own (RLIMIT_DATA): the addresses
    of mapped weights and those that a GPU's driver reserves do not count, as they would for RLIMIT_AS.
    `file_bytes`: the largest file that it writes. What is stricter already stays.
    """
    data = memory_bytes + _BASE_BYTES + _BYTES_A_CORE * (os.cpu_count() or 1)
    for kind, most in {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: data,
        resource.RLIMIT_FSIZE: max(file_bytes, _MIN_FILE_BYTES),
        resource.RLIMIT_NOFILE: OPEN_FILES,
        **_of_threads(),
    }.items():
        _lower(kind, most)


def _of_threads() -> Mapping[int, int]:
    """The limit of the user's threads: the kernel counts all that the user has, so those of now are added.

    /proc/loadavg tells those of all users, at once. It does not hold for root.
    """
    try:
        threads = int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return {}
    return {resource.RLIMIT_NPROC: threads + MORE_THREADS}


def _lower(kind: int, most: int) -> None:
    soft, hard = resource.getrlimit(kind)
    hard = most if hard == resource.RLIM_INFINITY else min(hard, most)
    resource.setrlimit(kind, (hard if soft == resource.RLIM_INFINITY else min(soft, hard), hard))
