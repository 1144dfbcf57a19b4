"""Reading the log without gaps, event by event."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, NamedTuple, TypeVar

import anyio

from suite.bus import stream_snapshot
from suite.bus.connection import Connection
from suite.bus.jetstream import (
    STREAM_NOT_FOUND,
    JetStream,
    NoAnswer,
    NotSent,
    Refused,
    Stored,
    StreamState,
)
from suite.errors import ServerUnsuitable, Unavailable
from suite.identity import NewId
from suite.log.consumer import Consumer, Delivered, DeliverPolicy, Lost, consumer_config, consumer_name
from suite.messages.envelope import NoEvent, Recorded
from suite.messages.subjects import aggregate_of

logger = logging.getLogger("suite.log")

PATIENCE_SECONDS: Final = 20.0
"""How long a reader that does not follow keeps trying to reach the log."""
MIRROR_SECONDS: Final = 45.0
"""The same for a mirror that does not grow. In a cluster, nats-server takes some 18 s until it notices that
the server is gone from which it copies (measured with 2.15.1)."""
FIRST_PAUSE_SECONDS: Final = 0.001
LAST_PAUSE_SECONDS: Final = 0.25

_SUBJECT_CHARACTERS: Final = 200
_REPLACED: Final = "\N{REPLACEMENT CHARACTER}"

T = TypeVar("T")


class Extent(NamedTuple):
    """How far the log goes."""

    created: str
    """When its stream was created, or restored from a backup. This distinguishes it from another stream with
    the same name."""
    last_seq: int
    subjects: int
    """How many subjects have messages."""
    time: datetime
    """When the server gave this answer, by its clock, which decides what has expired."""


class Unreadable(NamedTuple):
    """A message in the stream that is not an event of the suite. Only its sequence counts."""

    seq: int
    subject: str
    reason: str

    @property
    def aggregate(self) -> str:
        """The kind of aggregate that its subject names, even if no such kind exists."""
        return aggregate_of(self.subject)[0]


class LogSnapshot(NamedTuple):
    """A log as it was at one moment, in the form in which the server packs a stream."""

    state: StreamState
    """What it had when copying began. What was stored meanwhile may be in it too, up to some event."""
    chunks: AsyncGenerator[bytes, None]
    """Its bytes. Iterating raises Unavailable when the copy breaks off."""


class Reader:
    """Reads the stream. Any number of reads may run at once."""

    def __init__(self, jetstream: JetStream, *, new_id: NewId, is_mirror: bool = False) -> None:
        self._jetstream = jetstream
        self._new_id = new_id
        self._is_mirror = is_mirror
        """A deleted mirror is rebuilt, so reading it waits; a deleted log is an error."""

    async def read(
        self, *subject_filters: str, after: int, follow: bool, last_per_subject: bool
    ) -> AsyncGenerator[Recorded, None]:
        """Yield all events under these filters, in order, each once. No subject may match two of the filters.

        Raises Unavailable, ServerUnsuitable, and CredentialsRefused.
        """
        end = None if follow else (await self.extent()).last_seq
        if end is not None and end <= after:
            return
        place, policy, skipped = after, _policy(last_per_subject), False
        patience = Patience(self._jetstream.connection, follow=follow)
        while True:
            config = consumer_config(consumer_name(self._new_id), subject_filters, after=place, policy=policy)
            consumer = Consumer(self._jetstream, config)
            try:
                await consumer.start()
                left = consumer.pending
                while left or follow:
                    if not left:
                        policy = _policy(False)
                    delivered = await consumer.next(follow=follow)
                    if delivered is None:
                        break
                    if end is not None and delivered.seq > end:
                        return
                    patience.reset()
                    left = delivered.pending
                    if delivered.seq <= place:  # the last message of a subject, delivered again after a loss
                        continue
                    place = delivered.seq
                    event = read_delivered(delivered)
                    if isinstance(event, Recorded):
                        yield event
                    elif not skipped:
                        logger.warning("%s; it is skipped, and so are others like it", told(event))
                    skipped |= isinstance(event, Unreadable)
                    if place == end:
                        return
                await self.require_read(subject_filters, after=place, end=end)
                return
            except Lost as lost:
                logger.info("reading on after event %d with a new consumer: %s", place, lost)
                patience.excuse(lost)
            except Refused as refused:
                if refused.code == STREAM_NOT_FOUND and not self._is_mirror:
                    raise ServerUnsuitable(f"the stream {self._jetstream.stream} is gone") from refused
                patience.excuse(self._in_words(refused))
            except (NotSent, NoAnswer, Unavailable) as error:
                patience.excuse(error)
            finally:
                await consumer.stop()
            self._require_access(patience)
            await patience.pause()

    async def require_read(self, subject_filters: Sequence[str], *, after: int, end: int | None) -> None:
        """Raises Lost if there are messages under the filters after a sequence and up to the end.

        In a cluster a consumer is on any of the stream's servers, which may not have yet what the leader has.
        """
        if end is None or after >= end or not self._jetstream.connection.is_clustered:
            return
        for subject_filter in subject_filters:
            found = await self._jetstream.next(subject_filter, after=after)
            if found is not None and found.seq <= end:
                raise Lost(f"its server has not got event {found.seq} yet")

    def _require_access(self, patience: Patience) -> None:
        """Raises CredentialsRefused after PATIENCE_SECONDS without access, also to a reader that follows."""
        refusal = self._jetstream.connection.refusal
        if refusal is not None and patience.trouble(PATIENCE_SECONDS) is not None:
            raise refusal

    async def last(self, subject_filter: str) -> Recorded | Unreadable | None:
        """The newest message under the filter, from the leader. Raises Unavailable."""
        found = await self._patiently(lambda: self._jetstream.last(subject_filter))
        return read_stored(found) if found is not None else None

    async def at(self, seq: int, subject_filter: str) -> Recorded | Unreadable | None:
        """The message with this sequence, from the leader; None if it is gone. Raises Unavailable."""
        found = await self._patiently(lambda: self._jetstream.next(subject_filter, after=seq - 1))
        return read_stored(found) if found is not None and found.seq == seq else None

    async def reach(self, seq: int) -> None:
        """Wait until this stream has reached a sequence of the log; a mirror does so within milliseconds.

        Raises Unavailable if the stream does not grow for MIRROR_SECONDS.
        """
        patience = Patience(self._jetstream.connection, follow=False, seconds=MIRROR_SECONDS)
        pause, newest = FIRST_PAUSE_SECONDS, -1
        while (there := (await self.extent()).last_seq) < seq:
            if there > newest:
                newest = there
                patience.reset()
            patience.excuse(Lost(f"it ends at event {there} and does not come to {seq}"))
            await anyio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE_SECONDS)

    async def extent(self) -> Extent:
        """Which stream this is and how far it goes. Raises Unavailable."""
        info = await self._patiently(self._jetstream.info)
        state = info.state
        return Extent(info.identity, state.last_seq, state.num_subjects, info.ts)

    async def subjects(self) -> Mapping[str, int]:
        """Every subject of the stream and how many messages it has. Raises Unavailable."""
        return await self._patiently(self._jetstream.subjects)

    async def first(self, subject: str) -> Recorded | Unreadable | None:
        """The oldest message of a subject. Raises Unavailable."""
        # The server's JSON replaces bytes that are not UTF-8: such a token is matched with a wildcard.
        tokens = ["*" if _REPLACED in token else token for token in subject.split(".")]
        found = await self._patiently(lambda: self._jetstream.next(".".join(tokens), after=0))
        return read_stored(found) if found is not None else None

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[LogSnapshot]:
        """The whole stream in the server's own form. Raises Unavailable, AccessDenied."""
        try:
            async with stream_snapshot.snapshot(self._jetstream) as (info, chunks):
                yield LogSnapshot(info.state, chunks)
        except (Refused, NotSent, NoAnswer) as error:
            raise Unavailable(f"the log cannot be copied: {error}") from error

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Repeat a request until JetStream answers. Raises Unavailable after PATIENCE_SECONDS."""
        patience = Patience(self._jetstream.connection, follow=False)
        while True:
            try:
                return await ask()
            except Refused as refused:
                patience.excuse(self._in_words(refused))
            except (NotSent, NoAnswer) as error:
                patience.excuse(error)
            await patience.pause()

    def _in_words(self, refused: Refused) -> Exception:
        """What a refusal means, where NATS does not know that."""
        if self._is_mirror and refused.code == STREAM_NOT_FOUND:
            return Lost(
                "its mirror for readers is not there. A node makes it on its own server; on a NATS of your "
                "own you do (deploy/nats/README.md)"
            )
        return refused


def _policy(last_per_subject: bool) -> DeliverPolicy:
    return "last_per_subject" if last_per_subject else "by_start_sequence"


class Patience:
    """Limits how long a reader retries while the log does not answer: for ever if it follows."""

    def __init__(self, connection: Connection, *, follow: bool, seconds: float | None = None) -> None:
        """`seconds`: how long it retries; by default `PATIENCE_SECONDS`."""
        self._connection = connection
        self._follow = follow
        self._seconds = PATIENCE_SECONDS if seconds is None else seconds
        self._since = time.monotonic()
        self._pause = 0.0
        self._trouble: tuple[float, Exception] | None = None

    def reset(self) -> None:
        """Record that the log answers."""
        self._since = time.monotonic()
        self._pause = 0.0
        self._trouble = None

    def trouble(self, seconds: float) -> str | None:
        """The last error, if the log has not answered for ``seconds``; otherwise None."""
        if self._trouble is None or time.monotonic() - self._trouble[0] < seconds:
            return None
        return str(self._trouble[1])

    def excuse(self, error: Exception) -> None:
        """Record that the log does not answer.

        Raises Unavailable if that has lasted too long, or the connection was given up. Who does not follow
        gets a refusal of the credentials at once.
        """
        self._trouble = (self._trouble[0] if self._trouble is not None else time.monotonic(), error)
        if (refusal := self._connection.refusal) is not None and not self._follow:
            raise refusal
        is_over = self._connection.is_given_up or time.monotonic() - self._since > self._seconds
        if is_over and not self._follow:
            raise Unavailable(f"the log cannot be read: {error}") from error
        self._pause = min(1.0, max(0.05, 2 * self._pause))

    async def pause(self) -> None:
        """Wait before the next request, longer each time."""
        await anyio.sleep(self._pause)


def read_stored(stored: Stored) -> Recorded | Unreadable:
    """The event in a stored message, or the reason why it is not an event."""
    try:
        return Recorded.read(stored.seq, stored.subject, stored.headers, stored.body, stored=stored.stored)
    except NoEvent as error:
        return Unreadable(stored.seq, stored.subject, str(error))


def read_delivered(delivered: Delivered) -> Recorded | Unreadable:
    """The event in a delivered message, or the reason why it is not an event."""
    message = delivered.message
    return read_stored(
        Stored(
            seq=delivered.seq,
            subject=message.subject,
            headers=message.headers,
            body=message.data,
            stored=delivered.stored,
        )
    )


def told(unreadable: Unreadable) -> str:
    """A description of a message that is not an event, with its place and the reason. It is safe to print."""
    subject = unreadable.subject[:_SUBJECT_CHARACTERS]
    where = subject if subject.isprintable() else ascii(subject)
    return f"message {unreadable.seq} on {where} is no event of the suite ({unreadable.reason})"
