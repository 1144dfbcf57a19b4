"""What a node writes about itself and its instances, fenced by its epoch.

Every append expects the node's own ``started`` event to be still the last of its subject; when another
process has taken the name over, the append is refused and this node stops (DESIGN, invariant 3).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio

from suite.errors import (
    Conflict,
    Fenced,
    LogNotWritable,
    Overloaded,
    SuiteError,
    Unavailable,
    UnknownOutcome,
)
from suite.identity import NewId
from suite.log import Expectation, Log
from suite.messages.envelope import Recorded
from suite.messages.events import Event, NodeStarted
from suite.messages.subjects import Subjects
from suite.node.backlog import Backlog, Pending

logger = logging.getLogger("suite.node")

_RETRY_SECONDS = 0.5
_BACKLOG_SECONDS = 1.5
"""For how long a decision waits for what is still to be written before it."""


class Journal:
    """The node's pen."""

    def __init__(self, log: Log, subjects: Subjects, node: str, epoch: int, new_id: NewId) -> None:
        self.epoch = epoch
        self.last_seq = epoch
        self._fenced = anyio.Event()
        self._log = log
        self._subjects = subjects
        self._new_id = new_id
        self._backlog = Backlog(self._write)
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

    async def run(self) -> None:
        """Write down, for as long as this runs, what could not be written when it happened."""
        await self._backlog.run()

    async def decide(self, event: Event, *, undone: Event, correlation_id: str | None = None) -> int:
        """Append a decision before it is acted upon; its sequence.

        It is in the log when this returns and not when this raises: what may be there or not is tried until
        it is. If the log stops to take events meanwhile, that cannot be known: then UnknownOutcome is raised,
        and if it turns out to be there, ``undone`` is written behind it. Raises Fenced when this process is
        no longer the node, LogNotWritable, Unavailable, Overloaded or TooLarge.
        """
        if not await self._backlog.wait_empty(_BACKLOG_SECONDS):
            raise LogNotWritable("earlier events of this node still wait for the log: try again")
        event_id = self._new_id()
        try:
            return await self._append(event, event_id, correlation_id)
        except UnknownOutcome as error:
            try:
                return await self._until_stored(event, event_id, correlation_id, error)
            except LogNotWritable:
                self._put(undone, correlation_id, makes_up_for=event_id)
                raise error from None

    async def record(
        self,
        event: Event,
        *,
        correlation_id: str | None = None,
        written: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Append what has already happened; tried until the log has it once, and ``written`` hears where.

        Raises LogNotWritable when the log takes no events: it is then written as soon as it does. Raises
        Fenced when this process is no longer the node.
        """
        event_id = self._new_id()
        try:
            if not self._backlog.is_empty:
                raise LogNotWritable("earlier events of this node still wait for the log")
            try:
                seq = await self._append(event, event_id, correlation_id, essential=True)
            except (Unavailable, UnknownOutcome, Overloaded) as error:
                seq = await self._until_stored(event, event_id, correlation_id, error, essential=True)
        except LogNotWritable:
            self._put(event, correlation_id, event_id=event_id, written=written)
            raise
        written(seq)

    def _put(
        self,
        event: Event,
        correlation_id: str | None,
        *,
        event_id: str | None = None,
        makes_up_for: str | None = None,
        written: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._backlog.put(Pending(event, event_id or self._new_id(), correlation_id, makes_up_for, written))

    async def _write(self, pending: Pending) -> int | None:
        """Append what waited; None if it makes up for what has not happened."""
        last = await self._last(pending.event)
        if last is not None and last.id == pending.event_id:
            return last.seq
        if pending.makes_up_for is not None and (last is None or last.id != pending.makes_up_for):
            return None
        return await self._append(pending.event, pending.event_id, pending.correlation_id, essential=True)

    async def _until_stored(
        self,
        event: Event,
        event_id: str,
        correlation_id: str | None,
        error: SuiteError,
        *,
        essential: bool = False,
    ) -> int:
        while True:
            logger.warning("%s is not in the log yet: %s", event.type, error.message)
            await anyio.sleep(_RETRY_SECONDS)
            try:
                # The server forgets ids after two minutes; this node is the aggregate's only writer.
                last = await self._last(event)
                if last is not None and last.id == event_id:
                    return last.seq
                return await self._append(event, event_id, correlation_id, essential=essential)
            except (Unavailable, UnknownOutcome, Overloaded) as again:
                error = again

    async def _last(self, event: Event) -> Recorded | None:
        return await self._log.last(self._subjects.aggregate(event.aggregate, *event.ids))

    async def _append(
        self, event: Event, event_id: str, correlation_id: str | None, *, essential: bool = False
    ) -> int:
        try:
            seq = await self._log.append(
                event, expect=self._fence, id=event_id, correlation_id=correlation_id, essential=essential
            )
        except Conflict:
            self.fence()
            raise Fenced from None
        self.last_seq = max(self.last_seq, seq)
        return seq
