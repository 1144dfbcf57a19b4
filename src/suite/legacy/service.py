"""Runs everything that clients of the older services use: the request ports, and the published errors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from anyio.abc import TaskStatus

from suite.bus.action import Action
from suite.bus.connection import Connection
from suite.config import LegacySettings
from suite.domain.incidents import Incident, incident
from suite.legacy.bridge import Health, serve_old_clients
from suite.legacy.error_publisher import ErrorPublisher
from suite.log import Log
from suite.messages.events import Event, NodeLost
from suite.messages.subjects import Subjects
from suite.tasks import background

AGENT = "ModelManagerSuite"
"""The name that published errors give as their source, as the older services did."""
_WITH_ERRORS = ("breaker", "error", "instance", "node")


async def serve_legacy(
    connection: Connection,
    log: Log,
    subjects: Subjects,
    actions: Sequence[Action[Any]],
    old: LegacySettings,
    *,
    node: str,
    health: Health,
    task_status: TaskStatus[None],
) -> None:
    """Serve older clients until cancelled.

    The errors of ``node`` are published, and ``health`` returns its health. Raises PortTaken,
    InvalidConfiguration if ZeroMQ is not installed, and Unavailable if the log cannot be reached at first.
    """
    async with (
        ErrorPublisher.open(
            host=old.host, errors_port=old.errors_port, error_bus=old.error_bus, port=old.port
        ) as publisher,
        background() as tasks,
    ):
        now = (await log.extent()).last_seq
        await tasks.start(
            partial(
                serve_old_clients,
                connection,
                subjects,
                actions,
                health=health,
                host=old.host,
                port=old.port,
                health_check_port=old.health_check_port,
            )
        )
        task_status.started()
        await _publish_errors(log, publisher, node, after=now)


async def _publish_errors(log: Log, publisher: ErrorPublisher, node: str, *, after: int) -> None:
    """Publish the errors of this node that come after a sequence. Every node publishes its own errors."""
    async with log.follow(_WITH_ERRORS, after=after) as follower:
        while True:
            for recorded in (await follower.next()).events:
                if (found := incident(recorded.data)) is not None and _teller(recorded.data, found) == node:
                    await publisher.publish(
                        found.error_type,
                        found.message,
                        found.severity,
                        recorded.time.timestamp(),
                        AGENT,
                    )


def _teller(event: Event, found: Incident) -> str:
    """The node that publishes an incident. A lost node cannot, so its observer does."""
    return event.observer if isinstance(event, NodeLost) else found.node
