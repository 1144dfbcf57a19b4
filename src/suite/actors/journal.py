"""What a node writes about itself and its instances, fenced by its epoch.

Every append expects the node's own ``started`` event to be still the last of its subject; when another
process has taken the name over, the append is refused and this node stops (DESIGN, invariant 3).
"""

from __future__ import annotations

import logging

import anyio

from suite.errors import Conflict, Fenced, Overloaded, Unavailable, UnknownOutcome
from suite.identity import NewId
from suite.log import Expectation, Log
from suite.messages.events import Event, NodeStarted
from suite.messages.subjects import Subjects

logger = logging.getLogger("suite.node")

_RETRY_SECONDS = 0.5


class Journal:
    """The node's pen."""

    def __init__(self, log: Log, subjects: Subjects, node: str, epoch: int, new_id: NewId) -> None:
        self.epoch = epoch
        self.last_seq = epoch
        self._fenced = anyio.Event()
        self._log = log
        self._subjects = subjects
        self._new_id = new_id
        self._fence = Expectation(
            subject=subjects.event(NodeStarted.aggregate, (node,), NodeStarted.fact), last_seq=epoch
        )

    async def until_fenced(self) -> None:
        """Wait until another process has the node's name, and raise Fenced."""
        await self._fenced.wait()
        raise Fenced

    async def decide(self, event: Event, *, id: str | None = None, correlation_id: str | None = None) -> int:
        """Append a decision before it is acted upon; its sequence.

        Raises Fenced when this process is no longer the node, and whatever `Log.append` raises.
        """
        try:
            seq = await self._log.append(event, expect=self._fence, id=id, correlation_id=correlation_id)
        except Conflict:
            self._fenced.set()
            raise Fenced from None
        self.last_seq = max(self.last_seq, seq)
        return seq

    async def record(self, event: Event, *, correlation_id: str | None = None) -> int:
        """Append what has already happened; tried until the log has it once, its sequence.

        Raises Fenced when this process is no longer the node.
        """
        event_id = self._new_id()
        aggregate = self._subjects.aggregate(event.aggregate, *event.ids)
        while True:
            try:
                return await self.decide(event, id=event_id, correlation_id=correlation_id)
            except (Unavailable, UnknownOutcome, Overloaded) as error:
                logger.warning("%s is not in the log yet: %s", event.type, error.message)
            await anyio.sleep(_RETRY_SECONDS)
            try:
                # The server forgets ids after two minutes; this node is the aggregate's only writer.
                last = await self._log.last(aggregate)
            except Unavailable:
                continue
            if last is not None and last.id == event_id:
                return last.seq
