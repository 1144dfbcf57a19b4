"""The memories of a node, and who uses them, for people."""

from __future__ import annotations

from suite.messages.actions.status import MemoryInfo
from suite.messages.decisions import RAM
from suite.node.supervisor import Supervisor


def memories(supervisor: Supervisor) -> tuple[MemoryInfo, ...]:
    """RAM, then the GPUs."""
    return tuple(_memory(supervisor, name) for name in supervisor.residency.limit_bytes.names)


def _memory(supervisor: Supervisor, name: str) -> MemoryInfo:
    residency, watch = supervisor.residency, supervisor.memory
    measured = sum(each.footprint[name] for each in supervisor.instances.values())
    return MemoryInfo(
        node=supervisor.node,
        name=name,
        limit_bytes=residency.limit_bytes[name],
        reserved_bytes=residency.reserved_bytes[name],
        measured_bytes=measured + (watch.standby_bytes if name == RAM else 0),
        others_bytes=watch.others_bytes.get(name),
        admissible_bytes=residency.admissible_bytes[name],
    )
