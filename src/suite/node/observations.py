"""What is read of a node whenever its metrics are exported. Any thread may do that, so it reads copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from suite.domain.footprint import Footprint
from suite.messages.actions.status import BreakerInfo
from suite.node.instance import Instance
from suite.node.node import Node
from suite.node.supervisor import Supervisor
from suite.telemetry import instruments
from suite.telemetry.breaker_states import breaker_state
from suite.telemetry.instruments import MEMORY, MODEL, PROJECTION
from suite.ticks import tick

CONDITION_SECONDS: Final = 2.0

Values: TypeAlias = Iterable[tuple[float, Mapping[str, str]]]


class Condition(NamedTuple):
    """How a node is."""

    problems: int
    """How many its health has."""
    breakers: Sequence[BreakerInfo]


async def observing(node: Node, look: Callable[[], Condition]) -> None:
    """Have the metrics of this process tell of a node, until cancelled.

    `look` says how the node is. It reads too much of it for another thread, so it is asked now and then.
    """
    condition = look()
    instruments.PROBLEMS.observe(lambda: [(condition.problems, {})])
    instruments.BREAKER_STATE.observe(lambda: _breakers(condition.breakers))
    _observe(node)
    while True:
        await tick(CONDITION_SECONDS)
        condition = look()


def _observe(node: Node) -> None:
    supervisor = node.supervisor
    instruments.RESERVED.observe(lambda: _reserved(supervisor))
    instruments.RESIDENT.observe(lambda: _resident(supervisor))
    instruments.ESTIMATE_ERROR.observe(lambda: _estimate_errors(supervisor))
    instruments.THREADS_DUE.observe(lambda: _threads(supervisor))
    instruments.GENERATIONS_RUNNING.observe(lambda: _running(supervisor))
    instruments.MEMORY_LIMIT.observe(lambda: _by_memory(supervisor.residency.limit_bytes, {}))
    instruments.MEMORY_RESERVED.observe(lambda: _by_memory(supervisor.residency.reserved_bytes, {}))
    instruments.WAITING.observe(lambda: _waiting(supervisor))
    instruments.PROJECTION_LAG.observe(lambda: _lag(node))
    instruments.RECONNECTS.observe(lambda: [(max(0, node.connection.connections - 1), {})])


def _breakers(infos: Iterable[BreakerInfo]) -> Values:
    for info in infos:
        yield breaker_state(info.kind, info.name, info.state)


def _instances(supervisor: Supervisor) -> list[Instance]:
    return list(supervisor.instances.values())


def _reserved(supervisor: Supervisor) -> Values:
    for id, resident in list(supervisor.residency.residents.items()):
        yield from _by_memory(resident.reserved_bytes, {MODEL: id})


def _resident(supervisor: Supervisor) -> Values:
    for instance in _instances(supervisor):
        yield from _by_memory(instance.footprint, {MODEL: instance.model.model_id})


def _estimate_errors(supervisor: Supervisor) -> Values:
    limits = supervisor.residency.limit_bytes
    for instance in _instances(supervisor):
        if instance.resident_bytes:
            expected = instance.model.footprint(limits).total
            yield instance.ready_footprint.total - expected, {MODEL: instance.model.model_id}


def _threads(supervisor: Supervisor) -> Values:
    for instance in _instances(supervisor):
        yield supervisor.cores.threads(instance.seat), {MODEL: instance.model.model_id}


def _running(supervisor: Supervisor) -> Values:
    for instance in _instances(supervisor):
        accepted = sum(lease.accepted for lease in list(instance.leases.values()))
        yield accepted, {MODEL: instance.model.model_id}


def _waiting(supervisor: Supervisor) -> Values:
    waiting = {id: len(queue.requests) for id, queue in supervisor.admission.state.waiting.items()}
    loaded = {instance.model.model_id: 0 for instance in _instances(supervisor)}
    for id, count in {**loaded, **waiting}.items():
        yield count, {MODEL: id}


def _lag(node: Node) -> Values:
    for name, projector in node.projections.by_name.items():
        yield projector.info.lag_events, {PROJECTION: name}


def _by_memory(footprint: Footprint, attributes: Mapping[str, str]) -> Values:
    for memory in footprint.names:
        yield footprint[memory], {**attributes, MEMORY: memory}
