"""Follows the log in batches, for what folds it and keeps its own place."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from suite.bus.jetstream import JetStream, NoAnswer, NotSent, Refused
from suite.errors import SuiteError
from suite.identity import NewId
from suite.log.consumer import Consumer, Lost, consumer_config, consumer_name
from suite.log.reader import Patience, delivered_event
from suite.messages.envelope import Recorded

logger = logging.getLogger("suite.log")

BATCH_EVENTS: Final = 2000
TICK_SECONDS: Final = 1.0


class Batch(NamedTuple):
    """Some events, none of them left out, and how far they reach."""

    events: Sequence[Recorded]
    seq: int
    """All that is followed up to here has been given. May be above the last event: others' events count."""
    pending: int
    """How many more there were when these were sent."""


class Follower:
    """The events of some subjects after a sequence, each once and in order, whatever the connection does."""

    def __init__(
        self, jetstream: JetStream, subject_filters: Sequence[str], *, after: int, new_id: NewId
    ) -> None:
        self._jetstream = jetstream
        self._filters = subject_filters
        self._new_id = new_id
        self._place = after
        self._settled = after
        self._consumer: Consumer | None = None
        self._patience = Patience(follow=True)
        self._asked = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls, jetstream: JetStream, subject_filters: Sequence[str], *, after: int, new_id: NewId
    ) -> AsyncIterator[Follower]:
        """A follower whose consumer is removed at the end of the block."""
        follower = cls(jetstream, subject_filters, after=after, new_id=new_id)
        try:
            yield follower
        finally:
            await follower._drop()

    def settle(self) -> None:
        """Have `next` find out how far the log goes, although nothing may come."""
        self._asked = True
        if self._consumer is not None:
            self._consumer.wake()

    async def next(self) -> Batch:
        """The next events; an empty batch after a second without any, or when it was told to settle.

        Waits as long as the log cannot be reached.
        """
        until = time.monotonic() + TICK_SECONDS
        while True:
            try:
                batch = await self._try(until)
            except Lost as lost:
                logger.info("following on after event %d with a new consumer: %s", self._place, lost)
                self._patience.excuse(lost)
            except (Refused, NotSent, NoAnswer, SuiteError) as error:
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
        if self._asked and not consumer.buffered:
            self._asked = False
            return await self._settle(consumer)
        if await consumer.wait(max(0.0, until - time.monotonic())):
            delivered = await consumer.take(BATCH_EVENTS)
            self._place = delivered[-1].seq
            events = [event for each in delivered if (event := delivered_event(each)) is not None]
            return Batch(events, self._place, delivered[-1].pending + consumer.buffered)
        if self._asked or time.monotonic() < until:
            return None
        return Batch((), max(self._place, self._settled), 0)

    async def _settle(self, consumer: Consumer) -> Batch | None:
        """How far the log goes. It is asked before the consumer is: what it had then has been given."""
        end = (await self._jetstream.info()).state.last_seq
        if await consumer.nothing_left():
            self._settled = max(self._settled, end)
            return Batch((), max(self._place, self._settled), 0)
        return None

    async def _started(self) -> Consumer:
        if self._consumer is None:
            name = consumer_name(self._new_id)
            config = consumer_config(name, self._filters, after=self._place)
            self._consumer = Consumer(self._jetstream, config, batch=BATCH_EVENTS)
            await self._consumer.start()
        return self._consumer

    async def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()
