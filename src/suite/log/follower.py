"""Follows the log in batches, for readers that process events in order and track their own position."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import anyio

from suite.bus.jetstream import STREAM_NOT_FOUND, JetStream, NoAnswer, NotSent, Refused, StreamInfo
from suite.errors import ServerUnsuitable, SuiteError
from suite.identity import NewId
from suite.log.consumer import Consumer, Lost, consumer_config, consumer_name
from suite.log.reader import Patience, Unreadable, read_delivered
from suite.messages.envelope import Recorded
from suite.telemetry import instruments
from suite.ticks import next_tick

logger = logging.getLogger("suite.log")

BATCH_EVENTS: Final = 2000
TICK_SECONDS: Final = 1.0
TIME_SECONDS: Final = 60.0
"""The server is asked for its time at least this often."""
GONE_SECONDS: Final = 3.0
"""How long the stream may seem to be missing: a server that has just started does not know it at once."""


class Batch(NamedTuple):
    """The next events, without gaps, and the sequence up to which they are complete."""

    events: Sequence[Recorded]
    seq: int
    """All followed events up to this sequence have been delivered. It may be above the last event, because
    events that are not followed have sequences too."""
    pending: int
    """How many more events there were when the server sent the last one."""
    unreadable: Sequence[Unreadable] = ()
    """Messages in between that are not events of the suite."""


class Follower:
    """Delivers the events of some subjects after a sequence, each once and in order, across reconnects."""

    def __init__(
        self,
        jetstream: JetStream,
        subject_filters: Sequence[str],
        *,
        after: int,
        new_id: NewId,
        batch: int = BATCH_EVENTS,
    ) -> None:
        """`batch`: how many events at most are on their way, and in a batch."""
        self._jetstream = jetstream
        self._filters = subject_filters
        self._new_id = new_id
        self._batch_events = batch
        self._place = after
        self._settled = after
        self._pending = 0
        self._created = ""
        self._consumer: Consumer | None = None
        self._consumed = instruments.CONSUMED_MESSAGES.create()
        self._attributes = instruments.of_messages("fetch", "receive", jetstream.stream)
        self._patience = Patience(jetstream.connection, follow=True)
        self._asked = False
        self._told_at: tuple[datetime, float] | None = None
        """The last time that the server told, and the monotonic time at which it did."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        jetstream: JetStream,
        subject_filters: Sequence[str],
        *,
        after: int,
        new_id: NewId,
        batch: int = BATCH_EVENTS,
    ) -> AsyncIterator[Follower]:
        """Open a follower. Its consumer is deleted at the end of the block."""
        follower = cls(jetstream, subject_filters, after=after, new_id=new_id, batch=batch)
        try:
            yield follower
        finally:
            await follower._drop()

    def settle(self) -> None:
        """Make `next` ask how far the log goes, even if no event comes."""
        self._asked = True
        if self._consumer is not None:
            self._consumer.wake()

    def time(self) -> datetime | None:
        """The current time by the server's clock, which decides what expires; None if it is not known yet.

        This machine's clock may differ from it, and may jump.
        """
        if self._told_at is None:
            return None
        told, at = self._told_at
        return told + timedelta(seconds=time.monotonic() - at)

    def trouble(self, seconds: float) -> str | None:
        """The last error, if the log has not been reachable for ``seconds``; otherwise None."""
        return self._patience.trouble(seconds)

    async def next(self, wait: float = TICK_SECONDS) -> Batch:
        """The next events. The batch is empty at the next tick of ``wait`` seconds, or after `settle`.

        Waits for as long as the log cannot be reached. Raises ServerUnsuitable if the stream is gone, was
        replaced by another one of the same name, or has lost events.
        """
        until = next_tick(wait)
        gone_at: float | None = None
        while True:
            try:
                batch = await self._try(until)
            except Lost as lost:
                logger.info("following on after event %d with a new consumer: %s", self._place, lost)
                self._patience.excuse(lost)
            except Refused as refused:
                if refused.code == STREAM_NOT_FOUND:
                    gone_at = gone_at or time.monotonic()
                    if time.monotonic() - gone_at >= GONE_SECONDS:
                        raise ServerUnsuitable(f"the stream {self._jetstream.stream} is gone") from refused
                self._patience.excuse(refused)
            except ServerUnsuitable:
                raise
            except (NotSent, NoAnswer, SuiteError) as error:
                self._patience.excuse(error)
            else:
                if batch is not None:
                    self._patience.reset()
                    return batch
                continue
            await self._drop()
            await self._patience.pause()

    async def _try(self, until: float) -> Batch | None:
        consumer = await self._started()
        if self._told_at is None or time.monotonic() - self._told_at[1] > TIME_SECONDS:
            await self._info()
        if self._asked and not consumer.buffered:
            self._asked = False
            return await self._settle(consumer)
        if await consumer.wait(max(0.0, until - anyio.current_time())):
            delivered = await consumer.take(self._batch_events)
            self._consumed.add(len(delivered), self._attributes)
            self._place = delivered[-1].seq
            self._pending = delivered[-1].pending + consumer.buffered
            read = [read_delivered(each) for each in delivered]
            return self._batch(
                [each for each in read if isinstance(each, Recorded)],
                [each for each in read if isinstance(each, Unreadable)],
            )
        if self._asked or anyio.current_time() < until:
            return None
        self._asked = self._pending > 0  # the pending events may have expired in the meantime
        return self._batch()

    async def _settle(self, consumer: Consumer) -> Batch | None:
        """A batch that says how far the log goes; None if followed events up to there are still to come.

        It asks the stream's leader, because a consumer may learn of an event only after it was acknowledged.
        """
        end = (await self._info()).state.last_seq
        after = max(self._place, self._settled)
        if after < end:
            for subject_filter in self._filters:
                event = await self._jetstream.next(subject_filter, after=after)
                if event is not None and event.seq <= end:
                    await consumer.nothing_left()  # the event is in transit; raises Lost if it was lost
                    return None
        self._settled = max(after, end)
        self._pending = 0
        return self._batch()

    def _batch(self, events: Sequence[Recorded] = (), unreadable: Sequence[Unreadable] = ()) -> Batch:
        return Batch(events, max(self._place, self._settled), self._pending, unreadable)

    async def _info(self) -> StreamInfo:
        info = await self._jetstream.info()
        self._told_at = (info.ts, time.monotonic())
        return info

    async def _started(self) -> Consumer:
        if self._consumer is None:
            info = await self._info()
            created = info.identity
            if created != (self._created or created):
                raise ServerUnsuitable(f"the stream {self._jetstream.stream} is another one now")
            if info.state.last_seq < self._place:
                raise ServerUnsuitable(
                    f"the log ends at event {info.state.last_seq}, and has lost what came up to {self._place}"
                )
            self._created = created
            name = consumer_name(self._new_id)
            config = consumer_config(name, self._filters, after=self._place)
            self._consumer = Consumer(self._jetstream, config, batch=self._batch_events)
            await self._consumer.start()
            self._pending = self._consumer.pending
        return self._consumer

    async def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()
