"""The memory of GPUs, from recorded answers of NVML and llama.cpp: no machine with a GPU is at hand."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import TypeVar, cast

import pytest

import suite.gpus
from suite.engine.bindings import lib
from suite.engine.buffers import Buffers
from suite.gpus import GpuMemory, Gpus
from suite.messages.actor import Buffer

GIB, MIB = 1 << 30, 1 << 20
T = TypeVar("T")


class NvmlFailed(Exception):
    """As NVML's own: `Not Supported`, `GPU is lost`."""


@dataclass
class Use:
    total: int
    used: int


@dataclass
class Process:
    pid: int
    usedGpuMemory: int | None


@dataclass
class Recorded:
    """An NVML that answers what one said. What is None in it fails."""

    names: list[str | bytes | None]
    processes: list[list[Process] | None] = field(default_factory=list)
    NVMLError: type[Exception] = NvmlFailed

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object:  # noqa: N802
        return int(uuid.removeprefix("GPU-"))

    def nvmlDeviceGetName(self, handle: object) -> str | bytes:  # noqa: N802
        name = self.names[_index(handle)]
        if name is None:
            raise NvmlFailed
        return name

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> Use:  # noqa: N802
        return Use(total=80 * GIB, used=3 * GIB + _index(handle))

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[Process]:  # noqa: N802
        return _told(self.processes[_index(handle)])


def _index(handle: object) -> int:
    assert isinstance(handle, int)
    return handle


def _told(answer: T | None) -> T:
    if answer is None:
        raise NvmlFailed
    return answer


def test_every_gpu_that_answers_is_told_with_what_each_process_uses() -> None:
    nvml = Recorded(
        names=["NVIDIA H100", b"NVIDIA A2", None],
        processes=[[Process(7, 2 * GIB), Process(8, None)], None, []],
    )
    assert Gpus(nvml).read() == (
        GpuMemory(
            index=0,
            name="NVIDIA H100",
            total_bytes=80 * GIB,
            used_bytes=3 * GIB,
            by_process={7: 2 * GIB},
        ),
        GpuMemory(index=1, name="NVIDIA A2", total_bytes=80 * GIB, used_bytes=3 * GIB + 1),
    )


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["A", "B", "C"]),
        ("2,0", ["C", "A"]),
        ("GPU-1", ["B"]),
        ("1,-1,0", ["B"]),
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_gpus_have_the_numbers_by_which_llama_cpp_knows_them(visible: str | None, names: list[str]) -> None:
    nvml = Recorded(names=["A", "B", "C"], processes=[[], [], []])
    found = Gpus(nvml, visible).read()
    assert [each.name for each in found] == names
    assert [each.memory for each in found] == [f"gpu{index}" for index in range(len(names))]


def test_gpus_that_llama_cpp_cannot_use_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", cast(ModuleType, Recorded(names=["A"], processes=[[]])))
    assert bool(Gpus.open({}).read()) == lib.llama_supports_gpu_offload()
    monkeypatch.setattr(suite.gpus, "llama_cpp_offloads", lambda: True)
    assert [each.name for each in Gpus.open({}).read()] == ["A"]


def test_without_a_driver_or_its_package_there_is_none() -> None:
    assert Gpus(None).read() == ()
    assert isinstance(Gpus.open(), Gpus)


LINES = """
load_tensors:   CPU_Mapped model buffer size =   100.00 MiB
load_tensors:        CUDA1 model buffer size =   200.00 MiB
llama_kv_cache:      CUDA1 KV buffer size =    30.00 MiB
llama_kv_cache:        CPU KV buffer size =    10.00 MiB
llama_context:  CUDA_Host  output buffer size =     1.00 MiB
sched_reserve:      CUDA1 compute buffer size =    50.00 MiB
sched_reserve:      CUDA1 compute buffer size =    60.00 MiB
llama_context: n_ctx = 4096
"""
"""What llama.cpp says where a part of the layers is on the second GPU; the last buffer replaces another."""


def test_what_llama_cpp_allocates_is_told_by_device() -> None:
    buffers = Buffers()
    for line in LINES.splitlines():
        buffers.take(line)
    found = buffers.all()
    assert Buffer(device="CUDA1", part="kv", bytes=30 * MIB) in found
    on_gpu = sum(each.bytes for each in found if each.gpu == 1)
    in_ram = sum(each.bytes for each in found if each.gpu is None)
    assert (on_gpu, in_ram) == (290 * MIB, 111 * MIB)
