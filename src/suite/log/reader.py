"""Reading the log without gaps, event by event."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final, NamedTuple, TypeVar

import anyio
import msgspec

from suite.bus.jetstream import STREAM_NOT_FOUND, JetStream, NoAnswer, NotSent, Refused, Stored
from suite.errors import ServerUnsuitable, Unavailable
from suite.identity import NewId
from suite.log.consumer import Consumer, Delivered, DeliverPolicy, Lost, consumer_config, consumer_name
from suite.messages.envelope import Recorded

logger = logging.getLogger("suite.log")

PATIENCE_SECONDS: Final = 20.0
"""For how long a reader that does not follow goes on trying to reach the log."""
FIRST_PAUSE_SECONDS: Final = 0.001
LAST_PAUSE_SECONDS: Final = 0.25

T = TypeVar("T")


class Extent(NamedTuple):
    """Which stream this is, by the time of its creation, and its newest sequence."""

    created: str
    last_seq: int


class Reader:
    """Reads the stream for as many readers as there are."""

    def __init__(self, jetstream: JetStream, *, new_id: NewId, is_mirror: bool = False) -> None:
        self._jetstream = jetstream
        self._new_id = new_id
        self._is_mirror = is_mirror
        """A mirror that is gone is made anew; a log that is gone is gone."""

    async def read(
        self, subject_filter: str, *, after: int, follow: bool, last_per_subject: bool
    ) -> AsyncGenerator[Recorded, None]:
        """All events under the filter in order, each once. Raises Unavailable, or ServerUnsuitable."""
        end = None if follow else (await self.extent()).last_seq
        if end is not None and end <= after:
            return
        place, policy = after, _policy(last_per_subject)
        patience = Patience(follow=follow)
        while True:
            config = consumer_config(
                consumer_name(self._new_id), [subject_filter], after=place, policy=policy
            )
            consumer = Consumer(self._jetstream, config)
            try:
                await consumer.start()
                left = consumer.pending
                while left or follow:
                    if not left:
                        policy = _policy(False)
                    delivered = await consumer.next(follow=follow)
                    if delivered is None or (end is not None and delivered.seq > end):
                        return
                    patience.reset()
                    left = delivered.pending
                    if delivered.seq <= place:  # the last of a subject, again after a loss
                        continue
                    place = delivered.seq
                    event = delivered_event(delivered)
                    if event is not None:
                        yield event
                    if place == end:
                        return
                return
            except Lost as lost:
                logger.info("reading on after event %d with a new consumer: %s", place, lost)
                patience.excuse(lost)
            except Refused as refused:
                if refused.code == STREAM_NOT_FOUND and not self._is_mirror:
                    raise ServerUnsuitable(f"the stream {self._jetstream.stream} is gone") from refused
                patience.excuse(refused)
            except (NotSent, NoAnswer, Unavailable) as error:
                patience.excuse(error)
            finally:
                await consumer.stop()
            await patience.pause()

    async def last(self, subject_filter: str) -> Recorded | None:
        """The newest event under the filter, from the leader. Raises Unavailable."""
        found = await _patiently(lambda: self._jetstream.last(subject_filter))
        return recorded(found) if found is not None else None

    async def at(self, seq: int, subject_filter: str) -> Recorded | None:
        """The event of this sequence, from the leader; None if it is gone. Raises Unavailable."""
        found = await _patiently(lambda: self._jetstream.next(subject_filter, after=seq - 1))
        return recorded(found) if found is not None and found.seq == seq else None

    async def reach(self, seq: int) -> None:
        """Wait until what is read here has come to this sequence, as a mirror does within milliseconds.

        Raises Unavailable when it comes no nearer for a while.
        """
        patience, pause, newest = Patience(follow=False), FIRST_PAUSE_SECONDS, -1
        while (there := (await self.extent()).last_seq) < seq:
            if there > newest:
                newest = there
                patience.reset()
            patience.excuse(Lost(f"it ends at event {there} and does not come to {seq}"))
            await anyio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE_SECONDS)

    async def extent(self) -> Extent:
        """What the stream is and how far it goes. Raises Unavailable."""
        info = await _patiently(self._jetstream.info)
        return Extent(created=info.created, last_seq=info.state.last_seq)


def _policy(last_per_subject: bool) -> DeliverPolicy:
    return "last_per_subject" if last_per_subject else "by_start_sequence"


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until JetStream answers, for a while. Raises Unavailable."""
    patience = Patience(follow=False)
    while True:
        try:
            return await ask()
        except (Refused, NotSent, NoAnswer) as error:
            patience.excuse(error)
        await patience.pause()


class Patience:
    """How long a reader goes on when the log does not answer: for ever if it follows."""

    def __init__(self, *, follow: bool) -> None:
        self._follow = follow
        self._since = time.monotonic()
        self._pause = 0.0
        self._trouble: tuple[float, Exception] | None = None

    def reset(self) -> None:
        """It answers."""
        self._since = time.monotonic()
        self._pause = 0.0
        self._trouble = None

    def trouble(self, seconds: float) -> str | None:
        """Why it does not answer, if it has not for so long."""
        if self._trouble is None or time.monotonic() - self._trouble[0] < seconds:
            return None
        return str(self._trouble[1])

    def excuse(self, error: Exception) -> None:
        """It does not. Raises Unavailable when that has gone on for too long."""
        self._trouble = (self._trouble[0] if self._trouble is not None else time.monotonic(), error)
        if not self._follow and time.monotonic() - self._since > PATIENCE_SECONDS:
            raise Unavailable(f"the log cannot be read: {error}") from error
        self._pause = min(1.0, max(0.05, 2 * self._pause))

    async def pause(self) -> None:
        """Wait, longer each time, before it is asked again."""
        await anyio.sleep(self._pause)


def recorded(stored: Stored) -> Recorded | None:
    """The event in a stored message; None, logged, for what the suite cannot have written."""
    try:
        return Recorded.read(stored.seq, stored.subject, stored.headers, stored.body)
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        logger.error("message %d on %s is no event: %r", stored.seq, stored.subject, error)
        return None


def delivered_event(delivered: Delivered) -> Recorded | None:
    """The event in a delivered message; None, logged, for what the suite cannot have written."""
    message = delivered.message
    return recorded(
        Stored(seq=delivered.seq, subject=message.subject, headers=message.headers, body=message.data)
    )
