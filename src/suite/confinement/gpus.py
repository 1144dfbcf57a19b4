"""What the drivers of GPUs need of the system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_DEVICES: Final = ("nvidia*", "dri", "kfd", "dxg")
_SHARED_MEMORY: Final = "/dev/shm"
_KERNELS: Final = "CUDA_CACHE_PATH"
"""Names the directory in which CUDA keeps what it compiled for this GPU, which takes it minutes."""


def devices() -> tuple[Path, ...]:
    """The devices of GPUs. There are none on a machine without a GPU."""
    return tuple(path for pattern in _DEVICES for path in Path("/dev").glob(pattern))


def written() -> Iterator[Path]:
    """Where they write. Makes the directory for what CUDA compiles: it could not be made any more."""
    yield Path(_SHARED_MEMORY)
    with suppress(OSError, RuntimeError):  # it cannot be made, or the user has no home: then nothing is kept
        kernels = Path(os.environ.get(_KERNELS) or Path("~/.nv/ComputeCache").expanduser())
        kernels.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield kernels
