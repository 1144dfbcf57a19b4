"""Closes, at a node's start, the instances that its previous process left open in the log."""

from __future__ import annotations

from contextlib import suppress

from suite.errors import LogNotWritable
from suite.log import Log
from suite.messages.events import (
    InstanceEvent,
    InstanceGrew,
    InstanceLoaded,
    InstanceLoadStarted,
    InstanceUnloaded,
)
from suite.messages.subjects import Subjects
from suite.node.journal import Journal

_OPEN = (InstanceLoadStarted, InstanceLoaded, InstanceGrew)
"""The facts of an instance that has not ended."""


async def close_open_instances(log: Log, journal: Journal, subjects: Subjects, node: str) -> None:
    """Append the end of each instance that ended with this node's previous process."""
    newest: dict[str, InstanceEvent] = {}
    known: set[str] = set()
    # Read from the beginning: a message that is no event must not hide one, nor a copy count as newer.
    async for recorded in log.read(subjects.aggregate("instance", node)):
        if isinstance(recorded.data, InstanceEvent) and recorded.id not in known:
            known.add(recorded.id)
            newest[recorded.data.model_id] = recorded.data
    for fact in newest.values():
        if isinstance(fact, _OPEN):
            ended = InstanceUnloaded(
                node=node,
                model_id=fact.model_id,
                instance_id=fact.instance_id,
                reason="node_lost",
                freed_bytes=0,
            )
            with suppress(LogNotWritable):  # the journal writes it later
                await journal.record(ended)
