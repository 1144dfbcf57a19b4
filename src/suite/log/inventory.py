"""Lists the messages of the log: the sequence and expiry of each, without the bodies.

When the server reads a message it verifies the checksum, and skips a message that is damaged. The counts that
it gives without reading (in the state of a stream or a consumer) still include damaged messages.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, NamedTuple

import anyio

from suite.bus.jetstream import JetStream, NoAnswer, NotSent, Refused
from suite.errors import SuiteError, Unavailable
from suite.identity import NewId
from suite.log.consumer import Consumer, Delivered, Lost, consumer_config, consumer_name
from suite.log.reader import Patience, Reader
from suite.messages.envelope import expiry_of
from suite.messages.subjects import Subjects, aggregate_of

PAUSE_MESSAGES: Final = 512
PAUSE_SECONDS: Final = 0.02
"""The pause after every PAUSE_MESSAGES messages, because other work needs the processor more."""


class Entry(NamedTuple):
    """One message of the log."""

    seq: int
    aggregate: str
    stored: datetime
    """When it was stored, by the server's clock."""
    expires: datetime | None
    """None if it never expires."""
    skipped: int
    """How many sequences directly before it have no message, because it expired or was lost."""


async def inventory(
    jetstream: JetStream, subjects: Subjects, *, new_id: NewId
) -> AsyncGenerator[Entry, None]:
    """Yield every message up to the current end of the log, in order. Raises Unavailable."""
    patience = Patience(jetstream.connection, follow=False)
    reader = Reader(jetstream, new_id=new_id)
    place, end = 0, (await reader.extent()).last_seq
    while place < end:
        config = consumer_config(consumer_name(new_id), [subjects.events], after=place)
        consumer = Consumer(jetstream, {**config, "headers_only": True})
        try:
            await consumer.start()
            while (delivered := await consumer.next(follow=False)) is not None and delivered.seq <= end:
                patience.reset()
                skipped, place = delivered.seq - place - 1, delivered.seq
                yield _entry(delivered, skipped)
                if place == end or not delivered.pending:
                    break
                if delivered.number % PAUSE_MESSAGES == 0:
                    await anyio.sleep(PAUSE_SECONDS)
            await reader.require_read([subjects.events], after=place, end=end)
            return
        except (Lost, Refused, NotSent, NoAnswer, Unavailable) as error:
            patience.excuse(error)
        finally:
            await consumer.stop()
        await patience.pause()


async def count(
    jetstream: JetStream, subject_filters: Sequence[str], *, after: int = 0, new_id: NewId
) -> int:
    """The number of messages under the filters after a sequence, as the server counts. Raises Unavailable.

    In a cluster the number after a sequence may be behind by what is just being stored: see `require_read`.
    """
    if jetstream.connection.is_clustered and not after:
        return await _count_of_leader(jetstream, subject_filters)
    consumer = Consumer(jetstream, consumer_config(consumer_name(new_id), subject_filters, after=after))
    try:
        await consumer.start()
        return consumer.pending
    except (Refused, NotSent, NoAnswer, SuiteError) as error:
        raise Unavailable(f"the log cannot be counted: {error}") from error
    finally:
        await consumer.stop()


async def _count_of_leader(jetstream: JetStream, subject_filters: Sequence[str]) -> int:
    try:
        return sum([sum((await jetstream.subjects(each)).values()) for each in subject_filters])
    except (Refused, NotSent, NoAnswer, SuiteError) as error:
        raise Unavailable(f"the log cannot be counted: {error}") from error


async def place_of_newest(
    jetstream: JetStream, subject_filters: Sequence[str], number: int, *, new_id: NewId
) -> int:
    """The sequence after which there are that many messages under the filters; 0 if there are fewer.

    It asks the server some 20 times at most. Raises Unavailable.
    """
    if await count(jetstream, subject_filters, new_id=new_id) <= number:
        return 0
    before, place = 0, (await Reader(jetstream, new_id=new_id).extent()).last_seq
    while place - before > 1:
        middle = (before + place) // 2
        if await count(jetstream, subject_filters, after=middle, new_id=new_id) <= number:
            place = middle
        else:
            before = middle
    return place


def _entry(delivered: Delivered, skipped: int) -> Entry:
    message = delivered.message
    aggregate, _ = aggregate_of(message.subject)
    expires = None
    with suppress(ValueError, OverflowError, OSError):  # the suite did not write this message
        expires = expiry_of(message.headers, delivered.stored)
    return Entry(delivered.seq, aggregate, delivered.stored, expires, skipped)
