"""What a node writes about itself and its instances, fenced by its epoch.

Every append expects the node's own ``started`` event to be still the last of its subject; when another
process has taken the name over, the append is refused and this node stops (DESIGN, invariant 3).
"""

from __future__ import annotations

import logging

import anyio

from suite.errors import Conflict, Fenced, Overloaded, SuiteError, Unavailable, UnknownOutcome
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
        self._closed = False
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

    def fence(self) -> None:
        """Another process has the node's name: this one must stop."""
        self._fenced.set()

    def close(self) -> None:
        """The node ends and cannot wait for the log: what is not written down is left to its next start."""
        self._closed = True

    async def decide(self, event: Event, *, correlation_id: str | None = None) -> int:
        """Append a decision before it is acted upon; its sequence.

        It is in the log when this returns and not when this raises: what may be there or not is tried until
        it is. Raises Fenced when this process is no longer the node, Unavailable, Overloaded or TooLarge.
        """
        event_id = self._new_id()
        try:
            return await self._append(event, event_id, correlation_id)
        except UnknownOutcome as error:
            return await self._until_stored(event, event_id, correlation_id, error)

    async def record(self, event: Event, *, correlation_id: str | None = None) -> int:
        """Append what has already happened; tried until the log has it once, its sequence.

        Once this is closed it is tried no more: then it gives the last sequence that is known. Raises Fenced
        when this process is no longer the node.
        """
        event_id = self._new_id()
        try:
            return await self._append(event, event_id, correlation_id)
        except (Unavailable, UnknownOutcome, Overloaded) as error:
            try:
                return await self._until_stored(event, event_id, correlation_id, error)
            except (Unavailable, UnknownOutcome, Overloaded):
                return self.last_seq

    async def _until_stored(
        self, event: Event, event_id: str, correlation_id: str | None, error: SuiteError
    ) -> int:
        aggregate = self._subjects.aggregate(event.aggregate, *event.ids)
        while True:
            logger.warning("%s is not in the log yet: %s", event.type, error.message)
            if self._closed:
                raise error
            await anyio.sleep(_RETRY_SECONDS)
            try:
                # The server forgets ids after two minutes; this node is the aggregate's only writer.
                last = await self._log.last(aggregate)
                if last is not None and last.id == event_id:
                    return last.seq
                return await self._append(event, event_id, correlation_id)
            except (Unavailable, UnknownOutcome, Overloaded) as again:
                error = again

    async def _append(self, event: Event, event_id: str, correlation_id: str | None) -> int:
        try:
            seq = await self._log.append(
                event, expect=self._fence, id=event_id, correlation_id=correlation_id
            )
        except Conflict:
            self.fence()
            raise Fenced from None
        self.last_seq = max(self.last_seq, seq)
        return seq
