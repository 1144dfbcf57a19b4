"""The memory of NVIDIA's GPUs, as their driver tells it through nvidia-ml-py (the extra ``[gpu]``)::

    gpus = Gpus.open()
    for gpu in gpus.read(): print(gpu.name, gpu.used_bytes)

Without the package, the driver or a GPU there is none. This has been tried with recorded answers only, not
on a machine with a GPU.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol, cast

import msgspec

logger = logging.getLogger("suite.gpus")


class MemoryUse(Protocol):
    """What NVML says of the memory of a device, in bytes."""

    total: int
    used: int


class ProcessUse(Protocol):
    """What NVML says of a process on a device."""

    pid: int
    usedGpuMemory: int | None
    """In bytes; None where the driver does not tell."""


class Nvml(Protocol):
    """The functions of NVML that are used here, under their names there. Each may raise an `NVMLError`."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: D102, N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: D102, N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> object: ...  # noqa: D102, N802
    def nvmlDeviceGetName(self, handle: object) -> str | bytes: ...  # noqa: D102, N802
    def nvmlDeviceGetMemoryInfo(self, handle: object) -> MemoryUse: ...  # noqa: D102, N802
    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> Sequence[ProcessUse]: ...  # noqa: D102, N802


class GpuMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of one GPU, in bytes."""

    index: int
    name: str
    total_bytes: int
    used_bytes: int
    """By all programs, and the driver itself."""
    by_process: Mapping[int, int] = {}
    """By process id, as far as the driver tells; in a container these may be ids of the host."""


class Gpus:
    """The GPUs of this machine."""

    def __init__(self, nvml: Nvml | None) -> None:
        """None: there are none."""
        self._nvml = nvml

    @classmethod
    def open(cls) -> Gpus:
        """Ask the driver whether there are GPUs."""
        try:
            nvml = cast(Nvml, importlib.import_module("pynvml"))
        except ImportError:
            return cls(None)
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            logger.debug("no GPU is measured: %s", error)
            return cls(None)
        return cls(nvml)

    def read(self) -> tuple[GpuMemory, ...]:
        """The memory of each GPU now; a GPU that does not answer is left out. Blocks."""
        nvml = self._nvml
        if nvml is None:
            return ()
        found: list[GpuMemory] = []
        with suppress(nvml.NVMLError):
            for index in range(nvml.nvmlDeviceGetCount()):
                with suppress(nvml.NVMLError):
                    found.append(_read(nvml, index))
        return tuple(found)


def _read(nvml: Nvml, index: int) -> GpuMemory:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name, memory = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetMemoryInfo(handle)
    return GpuMemory(
        index=index,
        name=name.decode(errors="replace") if isinstance(name, bytes) else name,
        total_bytes=memory.total,
        used_bytes=memory.used,
        by_process=_by_process(nvml, handle),
    )


def _by_process(nvml: Nvml, handle: object) -> dict[int, int]:
    with suppress(nvml.NVMLError):  # some drivers tell this only to administrators
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return {each.pid: each.usedGpuMemory for each in processes if each.usedGpuMemory is not None}
    return {}
