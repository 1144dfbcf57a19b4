"""Appends a node's events about itself and its instances, fenced by its epoch (ADR 2).

Every append expects that the node's own ``started`` event is still the last one on its subject. When another
process has taken the name over, the append is refused and this node stops (DESIGN, invariant 3).

What is decided or happens about one aggregate is stored in the order in which this was asked for: an append
is repeated until its outcome is known, and a later one would otherwise get through in the meantime.

A load or an unload that is too large for the log because of what was weighed for it is appended without that.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import msgspec

from suite.errors import (
    AccessDenied,
    Conflict,
    Fenced,
    LogGone,
    LogNotWritable,
    Overloaded,
    SuiteError,
    TooLarge,
    Unavailable,
    UnknownOutcome,
)
from suite.identity import NewId
from suite.log import Expectation, Log, Unreadable
from suite.messages.decisions import Decision
from suite.messages.envelope import Recorded
from suite.messages.events import Event, InstanceLoadStarted, InstanceUnloaded, NodeStarted, UnknownEvent
from suite.messages.subjects import Subjects
from suite.node.backlog import Backlog, Pending

logger = logging.getLogger("suite.node")

_RETRY_SECONDS = 0.5
_PASSING = (Unavailable, UnknownOutcome, Overloaded, AccessDenied)
"""Errors that pass: also a NATS of somebody else lets this node in again once its users are set right."""
_EARLIER = "earlier events of this node still wait for the log: try again"
_BACKLOG_SECONDS = 1.5
"""How long a decision waits for the backlog to be written first."""
_TURN_SECONDS = 5.0
"""How long a decision waits for what is being appended about its aggregate: less than clients wait for it."""


class Journal:
    """Appends the events of one node. Every append is fenced."""

    def __init__(self, log: Log, subjects: Subjects, node: str, epoch: int, new_id: NewId) -> None:
        self.epoch = epoch
        self.last_seq = epoch
        self._fenced = anyio.Event()
        self._reason: SuiteError = Fenced()
        self._closed = False
        self._log = log
        self._subjects = subjects
        self._new_id = new_id
        self._backlog = Backlog(self._write)
        self._turns: dict[str, anyio.Lock] = {}
        """A lock for each aggregate that is being appended to."""
        self._fence = Expectation(
            subject=subjects.event(NodeStarted.aggregate, (node,), NodeStarted.fact), last_seq=epoch
        )

    async def until_fenced(self) -> None:
        """Wait until this process may no longer write as this node, then raise why: Fenced or LogGone."""
        await self._fenced.wait()
        raise self._reason.copy()

    async def check(self) -> None:
        """Check that the node's own start is still the last on its subject. If not, this process must stop.

        Raises Unavailable when that cannot be known.
        """
        last = await self._log.last(self._fence.subject)
        if last is None or last.seq != self.epoch:
            self._stop_because(self._overtaken_by(last))

    def _stop_because(self, reason: SuiteError) -> None:
        if not self._fenced.is_set():
            self._reason = reason
            self._fenced.set()

    def _overtaken_by(self, last: Recorded | Unreadable | None) -> SuiteError:
        subject = self._fence.subject
        if last is None or last.seq < self.epoch:
            return LogGone(
                f"the start of this node, event {self.epoch}, is gone from the log: while the node ran, "
                "the stream was deleted and made again, or brought back from an older copy; start it again"
            )
        if isinstance(last, Unreadable):
            return Fenced(
                f"message {last.seq} on {subject} is no event of the suite ({last.reason}): behind it this "
                "process cannot write as this node; see who may publish there, and start the node again"
            )
        if isinstance(last.data, NodeStarted):
            return Fenced(
                f"another start of this node is in the log, event {last.seq} of process {last.data.pid} on "
                f"{last.data.host}: this process stops"
            )
        if isinstance(last.data, UnknownEvent):
            return Fenced(
                f"message {last.seq} on {subject} is an event that this version does not know ({last.type}): "
                "behind it this process cannot write as this node; see who may publish there, and start the "
                "node again"
            )
        return Fenced()

    async def run(self) -> None:
        """Write events that could not be appended when they happened, until cancelled."""
        await self._backlog.run()

    def close(self) -> None:
        """Stop retrying: the node is stopping. What is not in the log yet is left to its next start."""
        self._closed = True

    async def decide(self, event: Event, *, undone: Event, correlation_id: str | None = None) -> int:
        """Append a decision before it is acted upon. Returns its sequence (ADR 3).

        The decision is in the log if this returns, and not if it raises: an append with an unknown outcome is
        retried until the log has the event. The exception is a log that stops accepting events meanwhile:
        then UnknownOutcome is raised, and if the decision turns out to be in the log, ``undone`` is appended
        after it. Raises Fenced or LogGone when this process is no longer the node, LogNotWritable,
        Unavailable, Overloaded or TooLarge.
        """
        async with self._turn(event, seconds=_TURN_SECONDS):
            if not await self._backlog.wait_empty(_BACKLOG_SECONDS):
                raise LogNotWritable(_EARLIER)
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
        """Append a fact, which has already happened. Retried until the log has it exactly once.

        ``written`` is called with its sequence. Raises LogNotWritable when the log accepts no events; the
        fact is then written as soon as it does. After `close` it is not retried, and left to the node's next
        start. Raises Fenced or LogGone when this process is no longer the node.
        """
        async with self._turn(event):
            event_id = self._new_id()
            try:
                if not self._backlog.is_empty:
                    raise LogNotWritable("earlier events of this node still wait for the log")
                try:
                    seq = await self._append(event, event_id, correlation_id, essential=True)
                except _PASSING as error:
                    seq = await self._until_stored(event, event_id, correlation_id, error, essential=True)
            except LogNotWritable:
                self._put(event, correlation_id, event_id=event_id, written=written)
                raise
            except _PASSING:
                if self._fenced.is_set():
                    raise
                return  # `close` was called
            written(seq)

    async def note(self, event: Event, event_id: str) -> None:
        """Append a fact that may come later: it is tried once, and can be tried again with the same id.

        Raises what `Log.append` raises, and Fenced or LogGone when this process is no longer the node.
        """
        await self._append(event, event_id, None)

    @asynccontextmanager
    async def _turn(self, event: Event, *, seconds: float | None = None) -> AsyncIterator[None]:
        """Wait until what was asked for earlier about the same aggregate is in the log or in the backlog.

        Raises LogNotWritable if that takes longer than `seconds`.
        """
        aggregate = self._subjects.aggregate(event.aggregate, *event.ids)
        turn = self._turns.setdefault(aggregate, anyio.Lock(fast_acquire=True))
        try:
            with anyio.move_on_after(seconds) as waiting:
                await turn.acquire()
            if waiting.cancelled_caught:
                raise LogNotWritable(_EARLIER)
            try:
                yield
            finally:
                turn.release()
        finally:
            # Whoever waited for it and was cancelled finds that it is gone, or another one.
            if not turn.locked() and self._turns.get(aggregate) is turn:
                del self._turns[aggregate]

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
        """Append an event from the backlog. Returns None for a compensation that is not needed."""
        seqs = await self._stored(pending.event)
        if pending.event_id in seqs:
            return seqs[pending.event_id]
        if pending.makes_up_for is not None and pending.makes_up_for != next(reversed(seqs), None):
            if self._log.writability.problem is not None:  # a server that is restarted may still find it
                raise LogNotWritable
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
        while not self._fenced.is_set():
            logger.warning("%s is not in the log yet: %s", event.type, error.message)
            if self._closed:
                raise error
            await anyio.sleep(_RETRY_SECONDS)
            if self._closed:
                raise error
            try:
                # The server forgets message ids after two minutes, so look in the log whether it was stored.
                seqs = await self._stored(event)
                if event_id in seqs:
                    return seqs[event_id]
                return await self._append(event, event_id, correlation_id, essential=essential)
            except _PASSING as again:
                error = again
        raise self._reason.copy()

    async def _stored(self, event: Event) -> dict[str, int]:
        """The ids and sequences of the events of the same aggregate since this node's start, in order."""
        aggregate = self._subjects.aggregate(event.aggregate, *event.ids)
        return {recorded.id: recorded.seq async for recorded in self._log.read(aggregate, after=self.epoch)}

    async def _append(
        self, event: Event, event_id: str, correlation_id: str | None, *, essential: bool = False
    ) -> int:
        try:
            seq = await self._log.append(
                event, expect=self._fence, id=event_id, correlation_id=correlation_id, essential=essential
            )
        except TooLarge:
            match event:
                case InstanceLoadStarted(decision=Decision()) | InstanceUnloaded(decision=Decision()):
                    logger.warning("%s is in the log without what was weighed: that is too large", event.type)
                    smaller = msgspec.structs.replace(event, decision=None)
                    return await self._append(smaller, event_id, correlation_id, essential=essential)
                case _:
                    raise
        except Conflict:
            with suppress(Unavailable):
                await self.check()
            self._stop_because(self._reason)
            raise self._reason.copy() from None
        self.last_seq = max(self.last_seq, seq)
        return seq
