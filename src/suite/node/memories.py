"""The memories of a node, and who uses them, for people."""

from __future__ import annotations

from collections.abc import Collection

from suite.gpus import GpuMemory
from suite.messages.actions.status import MemoryInfo
from suite.node.instance import Instance
from suite.node.supervisor import Supervisor


def memories(supervisor: Supervisor) -> tuple[MemoryInfo, ...]:
    """RAM, then the GPUs that are measured."""
    instances = supervisor.instances.values()
    return (_ram(supervisor), *(_gpu(each, instances) for each in supervisor.memory.gpus))


def _ram(supervisor: Supervisor) -> MemoryInfo:
    residency, watch = supervisor.residency, supervisor.memory
    measured = sum(each.memory.resident_bytes for each in supervisor.instances.values())
    return MemoryInfo(
        name="ram",
        limit_bytes=residency.limit_bytes,
        reserved_bytes=residency.reserved_bytes,
        measured_bytes=measured + watch.standby_bytes,
        others_bytes=watch.others_bytes,
        admissible_bytes=residency.admissible_bytes,
    )


def _gpu(gpu: GpuMemory, instances: Collection[Instance]) -> MemoryInfo:
    pids = {each.process.pid for each in instances if each.process is not None}
    measured = sum(used for pid, used in gpu.by_process.items() if pid in pids)
    buffers = (buffer for each in instances for buffer in each.buffers)
    others = max(0, gpu.used_bytes - measured)
    return MemoryInfo(
        name=f"gpu{gpu.index}",
        limit_bytes=gpu.total_bytes,
        reserved_bytes=sum(buffer.bytes for buffer in buffers if buffer.gpu == gpu.index),
        measured_bytes=measured,
        others_bytes=others,
        admissible_bytes=max(0, gpu.total_bytes - others),
    )
