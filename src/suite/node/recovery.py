"""Closes, at a node's start, the instances that its previous process left open in the log.

Only the events since the start of the last process that loaded anything are read. Nothing was left open
before that: a load begins only once the log has the ends of all that earlier processes left open
(`Journal.decide`). A process that is killed before it got so far leaves them to the next start.
"""

from __future__ import annotations

from contextlib import suppress

from suite.errors import LogNotWritable
from suite.log import Log, Unreadable
from suite.messages.events import (
    InstanceEvent,
    InstanceGrew,
    InstanceLoaded,
    InstanceLoadStarted,
    InstanceUnloaded,
    NodeStarted,
)
from suite.messages.subjects import Subjects
from suite.node.journal import Journal

_OPEN = (InstanceLoadStarted, InstanceLoaded, InstanceGrew)
"""The facts of an instance that has not ended."""


async def close_open_instances(log: Log, journal: Journal, subjects: Subjects, node: str) -> None:
    """Append the end of each instance that ended with this node's previous process."""
    newest: dict[str, InstanceEvent] = {}
    known: set[str] = set()
    after = await _start_of_last_loads(log, subjects, node)
    # Each event is read: a message that is no event must not hide one, nor a copy count as newer.
    async for recorded in log.read(subjects.aggregate("instance", node), after=after):
        if isinstance(recorded.data, InstanceEvent) and recorded.id not in known:
            known.add(recorded.id)
            fact = newest.get(recorded.data.instance_id)
            if fact is None or isinstance(fact, _OPEN):  # growth that an earlier version told late
                newest[recorded.data.instance_id] = recorded.data
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


async def _start_of_last_loads(log: Log, subjects: Subjects, node: str) -> int:
    """The start of the node's last process that began a load; 0 if it is not known."""
    last = await log.last(subjects.each("instance", node, InstanceLoadStarted.fact))
    if last is None or isinstance(last, Unreadable):
        return 0
    start = 0
    async for recorded in log.read(subjects.event(NodeStarted.aggregate, (node,), NodeStarted.fact)):
        if recorded.seq < last.seq:
            start = recorded.seq
    return start
