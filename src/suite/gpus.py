"""The memory of NVIDIA's GPUs, as their driver tells it through nvidia-ml-py (the extra ``[gpu]``)::

    gpus = Gpus.open()
    for gpu in gpus.read(): print(gpu.name, gpu.used_bytes)

Without the package, the driver, a GPU or a llama.cpp that can use GPUs there is none. GPUs have the numbers
by which llama.cpp knows them: those that ``CUDA_VISIBLE_DEVICES`` names, in its order, or else all in the
order of their PCI addresses (`DEVICE_ORDER`). This has been tried with recorded answers only, not on a
machine with a GPU.
"""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import takewhile
from typing import Final, Protocol, cast

import msgspec

from suite.domain.footprint import gpu_name

logger = logging.getLogger("suite.gpus")

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
DEVICE_ORDER: Final = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""Has CUDA count GPUs as NVML does. By default it puts the fastest first."""
_UUIDS: Final = ("GPU-", "MIG-")
_ANSWER_SECONDS: Final = 60.0
"""How long llama.cpp may take to say whether it can use GPUs: at first a driver may have to compile."""


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
    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object: ...  # noqa: D102, N802
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

    @property
    def memory(self) -> str:
        """The name of its memory."""
        return gpu_name(self.index)


class Gpus:
    """The GPUs of this machine."""

    def __init__(self, nvml: Nvml | None, visible: str | None = None) -> None:
        """None: there are none. `visible`: which of them may be used, as ``CUDA_VISIBLE_DEVICES`` says it;
        None: all.
        """
        self._nvml = nvml
        self._visible = visible

    @classmethod
    def open(cls, environ: Mapping[str, str] = os.environ) -> Gpus:
        """Ask the driver whether there are GPUs, and if so llama.cpp whether it can use them. Blocks."""
        try:
            nvml = cast(Nvml, importlib.import_module("pynvml"))
        except ImportError:
            return cls(None)
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            logger.debug("no GPU is measured: %s", error)
            return cls(None)
        found = cls(nvml, environ.get(VISIBLE))
        if found.read() and not llama_cpp_offloads():
            logger.warning(
                "the GPUs of this machine are not used: llama-cpp-python was built without them, so that all "
                "models are in RAM"
            )
            return cls(None)
        return found

    def read(self) -> tuple[GpuMemory, ...]:
        """The memory of each GPU now; a GPU that does not answer is left out. Blocks."""
        nvml = self._nvml
        if nvml is None:
            return ()
        found: list[GpuMemory] = []
        with suppress(nvml.NVMLError):
            for index, device in enumerate(self._devices(nvml)):
                with suppress(nvml.NVMLError):
                    found.append(_read(nvml, index, device))
        return tuple(found)

    def _devices(self, nvml: Nvml) -> Sequence[int | str]:
        """The GPUs that may be used, by NVML's index or their UUID. As for CUDA, the first that is neither
        hides those behind it.
        """
        if self._visible is None:
            return range(nvml.nvmlDeviceGetCount())
        named = (each.strip() for each in self._visible.split(","))
        known = takewhile(lambda each: each.isdecimal() or each.startswith(_UUIDS), named)
        return [int(each) if each.isdecimal() else each for each in known]


@cache
def llama_cpp_offloads() -> bool:
    """Whether the llama.cpp that models run in can use GPUs. A helper process finds out. Blocks."""
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "suite.engine.offload"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.stdout.strip() == b"yes"


def _read(nvml: Nvml, index: int, device: int | str) -> GpuMemory:
    if isinstance(device, int):
        handle = nvml.nvmlDeviceGetHandleByIndex(device)
    else:
        handle = nvml.nvmlDeviceGetHandleByUUID(device)
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
