"""The log: all events in one order, each appended once and read without gaps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from typing import Final

from suite.bus.connection import Connection
from suite.bus.jetstream import (
    BATCH_HEADER_BYTES,
    MAX_BATCH_MESSAGES,
    NO_JETSTREAM_LEADER,
    STREAM_NOT_FOUND,
    JetStream,
    NoAnswer,
    NotSent,
    Outgoing,
    Refused,
)
from suite.bus.replicas import Replication
from suite.errors import InvalidRequest, LogGone, NoLeader, TooLarge, Unavailable
from suite.identity import NewId, Now
from suite.log.end import End
from suite.log.follower import BATCH_EVENTS, Follower
from suite.log.inventory import Entry, count, inventory, place_of_newest
from suite.log.publisher import Expectation, PendingAppend, Publisher
from suite.log.reader import Extent, Reader, Unreadable
from suite.log.stream import DEDUPLICATION_SECONDS, prepare_stream
from suite.log.writability import Writability
from suite.log.writer import Writer
from suite.messages.envelope import Envelope, Recorded, header_value
from suite.messages.events import Event
from suite.messages.subjects import MAX_ID_BYTES, Subjects
from suite.tasks import background
from suite.telemetry import Attribute, annotate, instruments, recording, sending, traceparent
from suite.telemetry.instrument import Timed

SETTLE_SECONDS: Final = 20.0
"""How long an append is retried: far below the two minutes for which the server remembers its id."""
ATTEMPT_SECONDS: Final = 1.2
"""How long one publish waits for its answer: so short that a failure to write is known within two seconds."""
CLOSE_SECONDS: Final = 2.0
EXPLAIN_SECONDS: Final = 1.0
EXTRA_HEADER_BYTES: Final = BATCH_HEADER_BYTES + 120
"""Bytes that a batch and an expectation add to an event's headers, without the expectation's subject."""


class Log:
    """Appends to the stream of all events, and reads it."""

    def __init__(
        self,
        jetstream: JetStream,
        subjects: Subjects,
        *,
        source: str,
        new_id: NewId,
        now: Now,
        retention: Mapping[str, int],
        writer: Writer,
        writability: Writability,
    ) -> None:
        self._jetstream = jetstream
        self._subjects = subjects
        self._source = source
        self._new_id = new_id
        self._now = now
        self._retention = retention
        self._writer = writer
        self._reader = Reader(jetstream, new_id=new_id)
        self._end = End(self._ask_end)
        self._append_duration = instruments.APPEND_DURATION.create()
        self.writability = writability
        self.newest = 0
        """The highest sequence that this process knows of, by its own appends or by those of others."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        connection: Connection,
        subjects: Subjects,
        *,
        source: str,
        new_id: NewId,
        now: Now,
        retention: Mapping[str, int] | None = None,
        create: bool = True,
        replicas: int = 1,
        attempt_seconds: float = ATTEMPT_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> AsyncIterator[Log]:
        """Open the log on this connection. Its stream is created if it is missing, unless `create` is False,
        on as many servers as ``replicas`` says, or as there are.

        ``retention`` gives, by aggregate, after how many seconds its events expire; at 0, or without an
        entry, they never do. ``attempt_seconds`` is how long one publish waits for its answer,
        ``settle_seconds`` how long an append is retried. Leaving the block waits a few seconds for appends
        that are under way. Raises ServerUnsuitable, Unavailable.
        """
        if settle_seconds > DEDUPLICATION_SECONDS / 2:
            raise ValueError("an append must settle while the server still knows its id")
        jetstream = JetStream(connection, subjects.stream, new_id=new_id)
        await prepare_stream(
            jetstream, subjects.events, create=create, seconds=settle_seconds, replicas=replicas
        )
        async with background() as tasks:
            writability = Writability(connection)
            publisher = Publisher(
                jetstream, writability, attempt_seconds=attempt_seconds, settle_seconds=settle_seconds
            )
            writer = Writer(publisher, tasks)
            try:
                yield cls(
                    jetstream,
                    subjects,
                    source=source,
                    new_id=new_id,
                    now=now,
                    retention=retention or {},
                    writer=writer,
                    writability=writability,
                )
            finally:
                await writer.close(CLOSE_SECONDS)

    async def append(
        self,
        *events: Event,
        expect: Expectation | None = None,
        id: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        essential: bool = False,
    ) -> int:
        """Store the events, all or none, next to each other, and return the sequence of the last one.

        With ``expect`` they are one decision, stored only if the expectation holds. A single event may be
        given an ``id``: appending the same id again within two minutes stores nothing and returns the first
        sequence. Cancelling this call ends the wait: events that were not yet sent are withdrawn, others are
        stored all the same. ``essential`` events record what has already happened; they may use the disk
        space that is kept in reserve.

        Raises Conflict (the expectation does not hold, nothing is stored), Unavailable or LogNotWritable
        (nothing is stored; LogGone if the stream no longer exists, NoLeader if most of its servers are away),
        UnknownOutcome (with ``event_id``), Overloaded, TooLarge, InvalidRequest.
        """
        if not essential:
            self.writability.require_space()
        if not 0 < len(events) <= MAX_BATCH_MESSAGES:
            raise InvalidRequest(
                f"{len(events)} events in one append: 1 to {MAX_BATCH_MESSAGES} can go together"
            )
        with self._appending(events), Timed(self._append_duration, {}):
            append = self._pack(events, expect, id, correlation_id, causation_id)
            annotate({"messaging.message.id": append.event_id})
            self._writer.submit(append)
            try:
                seq = await append.result
                annotate({"suite.event.seq": seq})
                self.newest = max(self.newest, seq)
                self._end.note(seq)
                return seq
            except Unavailable as error:
                raise await self._explained(error) from error
            except asyncio.CancelledError:
                if append.result.done() and not append.result.cancelled():
                    append.result.exception()  # the result came at the same moment, and nobody waits for it
                raise

    @property
    def stream(self) -> str:
        """The name of the stream."""
        return self._subjects.stream

    def _appending(self, events: Sequence[Event]) -> AbstractContextManager[None]:
        """The span of an append: one decision, called by its first event."""
        if not recording.is_on:
            return nullcontext()
        first = events[0]
        template = self._subjects.each_event(first.aggregate, len(first.ids), first.fact)
        attributes: dict[str, Attribute] = {"cloudevents.event_type": first.type}
        if len(events) > 1:
            attributes["messaging.batch.message_count"] = len(events)
        return sending("append", template, attributes=attributes)

    def read(
        self,
        subject_filter: str | None = None,
        *,
        after: int = 0,
        follow: bool = False,
        last_per_subject: bool = False,
    ) -> AsyncGenerator[Recorded, None]:
        """Yield the events after a sequence, in order, without gaps.

        Without ``follow`` it stops where the log ended when the reading began. With ``follow`` it goes on
        for ever and survives a restart of the server. With ``last_per_subject``, only the newest of the
        existing events of each subject is yielded. Close the generator (``contextlib.aclosing``) when you
        leave early. Raises Unavailable, ServerUnsuitable.
        """
        return self._reader.read(
            subject_filter or self._subjects.events,
            after=after,
            follow=follow,
            last_per_subject=last_per_subject,
        )

    def hurry(self, seconds: float) -> None:
        """From now on, try each append for at most ``seconds``: for a process that is about to end."""
        self._writer.hurry(seconds)

    async def last(self, subject_filter: str) -> Recorded | Unreadable | None:
        """The newest message under the filter. It sees every acknowledged append. Raises Unavailable."""
        return await self._reader.last(subject_filter)

    async def last_seq(self, subject_filter: str) -> int:
        """The newest sequence under the filter, 0 if there is none: the value for an `Expectation`.

        Messages that are not events count too, as they do for the server. Call this before you read the
        events, and expect the higher of this and the last sequence read: then an unreadable message does
        not block the decision. Raises Unavailable.
        """
        last = await self._reader.last(subject_filter)
        return 0 if last is None else last.seq

    async def at(self, seq: int) -> Recorded | Unreadable | None:
        """The message with this sequence; None if it has expired. Raises Unavailable."""
        return await self._reader.at(seq, self._subjects.events)

    async def subjects(self) -> Mapping[str, int]:
        """Every subject of the log and how many messages it has. Raises Unavailable."""
        return await self._reader.subjects()

    async def first(self, subject: str) -> Recorded | Unreadable | None:
        """The oldest message of a subject. Raises Unavailable."""
        return await self._reader.first(subject)

    async def extent(self) -> Extent:
        """Which stream this is and how far it goes. It includes every acknowledged append.

        Raises Unavailable.
        """
        return await self._reader.extent()

    def see(self, seq: int) -> None:
        """Know of an event that somebody else has appended."""
        self.newest = max(self.newest, seq)

    async def catch_up(self) -> None:
        """Know of everything that was acknowledged until now, whoever appended it. Raises Unavailable."""
        self.see((await self.extent()).last_seq)

    async def reaches(self, seq: int) -> bool:
        """Whether the log has reached this sequence, even if the message has expired since.

        Mostly this is known without a request to the server. Raises Unavailable.
        """
        return await self._end.reaches(seq)

    async def _ask_end(self) -> int:
        return (await self.extent()).last_seq

    async def count(self, aggregates: Sequence[str]) -> int:
        """How many events these aggregates have, as the server counts. Raises Unavailable.

        The count may include damaged messages: the server notices those only when an `inventory` reads them.
        """
        filters = [self._subjects.aggregate(aggregate) for aggregate in aggregates]
        return await count(self._jetstream, filters, new_id=self._new_id)

    async def place_of_newest(self, aggregates: Sequence[str], number: int) -> int:
        """After which sequence to read the newest so many events of these aggregates. Raises Unavailable."""
        filters = [self._subjects.aggregate(aggregate) for aggregate in aggregates]
        return await place_of_newest(self._jetstream, filters, number, new_id=self._new_id)

    def inventory(self) -> AsyncGenerator[Entry, None]:
        """Yield an entry for every message up to the current end of the log, without bodies.

        Raises Unavailable.
        """
        return inventory(self._jetstream, self._subjects, new_id=self._new_id)

    def follow(
        self, aggregates: Sequence[str], *, after: int, batch: int = BATCH_EVENTS
    ) -> AbstractAsyncContextManager[Follower]:
        """Follow these aggregates: their events after a sequence, in batches, and new ones as they come."""
        filters = [self._subjects.aggregate(aggregate) for aggregate in aggregates]
        return Follower.open(self._jetstream, filters, after=after, new_id=self._new_id, batch=batch)

    async def _explained(self, error: Unavailable) -> Unavailable:
        """LogGone or NoLeader if that explains the error; otherwise the error itself."""
        connection = self._jetstream.connection
        if not connection.is_connected:
            return error
        try:
            problem = Replication.of(await self._jetstream.info(timeout=EXPLAIN_SECONDS), wanted=1).no_leader
        except (NotSent, NoAnswer):
            problem = "JetStream does not answer: see to its servers" if connection.is_clustered else None
        except Refused as refused:
            if refused.code == STREAM_NOT_FOUND:
                return LogGone(
                    f"nothing was stored: the stream {self._jetstream.stream}, which held the log, was "
                    "deleted; a node that is started anew makes a new one, with a new history"
                )
            problem = f"{refused}: see to its servers" if refused.code == NO_JETSTREAM_LEADER else None
        return error if problem is None else NoLeader(f"nothing was stored: {problem}")

    def _pack(
        self,
        events: tuple[Event, ...],
        expect: Expectation | None,
        id: str | None,
        correlation_id: str | None,
        causation_id: str | None,
    ) -> PendingAppend:
        if id is not None and len(events) > 1:
            raise ValueError("an id names one event")
        if id is not None and not 0 < len(header_value(id)) <= MAX_ID_BYTES:
            raise InvalidRequest(f"an event id has 1 to {MAX_ID_BYTES} characters, three for a special one")
        now, trace = self._now(), traceparent()
        envelopes = [
            Envelope(
                id=id or self._new_id(),
                source=self._source,
                time=now,
                data=event,
                correlation_id=correlation_id,
                causation_id=causation_id,
                traceparent=trace,
                ttl_seconds=self._retention.get(event.aggregate) or None,
            )
            for event in events
        ]
        messages = tuple([self._message(envelope) for envelope in envelopes])
        extra = EXTRA_HEADER_BYTES + (len(expect.subject) if expect is not None else 0)
        sizes = [message.size + extra for message in messages]
        largest, limit = max(sizes), self._jetstream.connection.max_payload
        if largest > limit:
            raise TooLarge(f"an event has {largest} bytes with its headers: the server takes {limit}")
        return PendingAppend(
            messages,
            event_id=envelopes[-1].id,
            expect=expect,
            fresh=id is None,
            size=sum(sizes),
            result=asyncio.get_running_loop().create_future(),
        )

    def _message(self, envelope: Envelope) -> Outgoing:
        return Outgoing.build(envelope.subject(self._subjects), envelope.body(), envelope.headers())
