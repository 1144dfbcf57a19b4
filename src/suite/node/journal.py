"""What a node writes about itself and its instances, fenced by its epoch.

Every append expects the node's own ``started`` event to be still the last of its subject; when another
process has taken the name over, the append is refused and this node stops (DESIGN, invariant 3).
"""

from __future__ import annotations

import logging
from contextlib import suppress

import anyio

from suite.errors import Conflict, Fenced, LogGone, Overloaded, SuiteError, Unavailable, UnknownOutcome
from suite.identity import NewId
from suite.log import Expectation, Log, Unreadable
from suite.messages.envelope import Recorded
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
        self._reason: SuiteError = Fenced()
        self._log = log
        self._subjects = subjects
        self._new_id = new_id
        self._fence = Expectation(
            subject=subjects.event(NodeStarted.aggregate, (node,), NodeStarted.fact), last_seq=epoch
        )

    async def until_fenced(self) -> None:
        """Wait until this process may write no more as this node, and raise why: Fenced or LogGone."""
        await self._fenced.wait()
        raise self._reason

    async def check(self) -> None:
        """See whether the node's own start is still the last on its subject; if not, this process must stop.

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
        return Fenced()

    async def decide(self, event: Event, *, correlation_id: str | None = None) -> int:
        """Append a decision before it is acted upon; its sequence.

        It is in the log when this returns and not when this raises: what may be there or not is tried until
        it is. Raises Fenced or LogGone when this process is no longer the node, Unavailable, Overloaded or
        TooLarge.
        """
        event_id = self._new_id()
        try:
            return await self._append(event, event_id, correlation_id)
        except UnknownOutcome as error:
            return await self._until_stored(event, event_id, correlation_id, error)

    async def record(self, event: Event, *, correlation_id: str | None = None) -> int:
        """Append what has already happened; tried until the log has it once, its sequence.

        Raises Fenced or LogGone when this process is no longer the node.
        """
        event_id = self._new_id()
        try:
            return await self._append(event, event_id, correlation_id)
        except (Unavailable, UnknownOutcome, Overloaded) as error:
            return await self._until_stored(event, event_id, correlation_id, error)

    async def _until_stored(
        self, event: Event, event_id: str, correlation_id: str | None, error: SuiteError
    ) -> int:
        aggregate, known = self._subjects.aggregate(event.aggregate, *event.ids), self.epoch
        while not self._fenced.is_set():
            logger.warning("%s is not in the log yet: %s", event.type, error.message)
            await anyio.sleep(_RETRY_SECONDS)
            try:
                # The server forgets ids after two minutes: whether it was stored meanwhile, the log tells.
                async for recorded in self._log.read(aggregate, after=known):
                    if recorded.id == event_id:
                        return recorded.seq
                    known = recorded.seq
                return await self._append(event, event_id, correlation_id)
            except (Unavailable, UnknownOutcome, Overloaded) as again:
                error = again
        raise self._reason

    async def _append(self, event: Event, event_id: str, correlation_id: str | None) -> int:
        try:
            seq = await self._log.append(
                event, expect=self._fence, id=event_id, correlation_id=correlation_id
            )
        except Conflict:
            with suppress(Unavailable):
                await self.check()
            self._stop_because(self._reason)
            raise self._reason from None
        self.last_seq = max(self.last_seq, seq)
        return seq
