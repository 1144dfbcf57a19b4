"""Stores events in the stream, each exactly once, whatever messages get lost.

If no answer comes, the attempt is repeated unchanged, for a time well below the server's deduplication
window. The server's answers to a repeated attempt, as tested on nats-server 2.15 (ADR-50 of NATS):

- Without an expectation: ``duplicate: true`` with the first sequence. For an atomic batch it is error 10201,
  which does not tell whether this batch or an earlier event with one of its ids was stored. Then each
  append is sent by itself.
- With an expectation: error 10071, if the previous attempt was stored or if another writer was faster. The
  log tells which. An expectation that was overtaken once never holds again, so the answer is final.

After a failed write to its disk, a server no longer answers publishes that it would store, but still refuses
others. So when an answer does not come, a probe follows: a publish that can only be refused. If the probe is
refused, the server has processed the first publish and not stored it. If the probe gets no answer either, the
server is slow. That is so for a stream on one server. Where it has replicas, the leader answers a probe
before the others have agreed on what came earlier, so there the attempt is just repeated.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

import anyio
import msgspec

from suite.bus.jetstream import (
    DUPLICATE_IN_BATCH,
    EXPECTED_SEQ,
    EXPECTED_SUBJECT,
    NO_STORAGE,
    TRANSIENT,
    WRONG_LAST_SEQUENCE,
    JetStream,
    NoAnswer,
    NotSent,
    Outgoing,
    PubAck,
    Refused,
    Stored,
)
from suite.errors import (
    AccessDenied,
    Conflict,
    InvalidRequest,
    LogNotWritable,
    SuiteError,
    TooLarge,
    Unavailable,
    UnknownOutcome,
)
from suite.log.writability import Writability
from suite.telemetry import instruments
from suite.telemetry.instrument import Timed

logger = logging.getLogger("suite.log")

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0
_PROBE_SECONDS: Final = 0.5
_PROBE_AFTER_SECONDS: Final = 0.05
"""Enough time for a sent message, or one that has arrived, to pass through this process."""
_LOOK_LIMIT: Final = 10_000
"""A search for one's own append reads at most this many messages. After that the outcome is unknown."""

MESSAGE_ID: Final = "Nats-Msg-Id"


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """The condition for storing a decision: the last sequence under a subject.

    ``subject`` may have wildcards (``suite.event.model.phi.>``) and need not match the appended events:
    expecting the ``started`` event of a node on its events fences an older process of that node.
    """

    subject: str
    last_seq: int
    """0 if there is no message yet."""


class PendingAppend:
    """Events that are stored together or not at all, and the future on which their appender waits."""

    __slots__ = ("event_id", "expect", "fresh", "messages", "result", "seen", "size")

    def __init__(
        self,
        messages: tuple[Outgoing, ...],
        *,
        event_id: str,
        expect: Expectation | None,
        fresh: bool,
        size: int,
        result: asyncio.Future[int],
    ) -> None:
        self.messages = messages
        self.event_id = event_id
        """The id of the last event, by which one can ask for the outcome."""
        self.expect = expect
        self.fresh = fresh
        """Whether its ids were generated for this append, so that no earlier append can have used them."""
        self.size = size
        self.result = result
        self.seen = 0
        """The newest sequence known before the first attempt. Its events get sequences above it."""

    def resolve(self, seq: int) -> None:
        """Pass the sequence to the appender, if it still waits."""
        if not self.result.done():
            self.result.set_result(seq)

    def fail(self, error: SuiteError) -> None:
        """Pass the error to the appender. If it no longer waits, log the error."""
        if not self.result.done():
            self.result.set_exception(error)
        else:
            logger.warning("append of event %s, given up by its caller: %s", self.event_id, error.message)


class _Final(Exception):
    """The server's refusal is final. ``uncertain``: it may have accepted an earlier attempt."""

    def __init__(self, refused: Refused, *, uncertain: bool) -> None:
        super().__init__(str(refused))
        self.code = refused.code
        self.uncertain = uncertain


class _PassedOver(Exception):
    """The server has processed a publish without answering it."""


class Publisher:
    """Sends appends on one connection. Each append gets its result or error; only cancellation is raised."""

    def __init__(
        self,
        jetstream: JetStream,
        writability: Writability,
        *,
        attempt_seconds: float,
        settle_seconds: float,
    ) -> None:
        self._jetstream = jetstream
        self._writability = writability
        self._attempt_seconds = attempt_seconds
        self._settle_seconds = settle_seconds
        self._hurry_seconds = 0.0
        self._newest = 0
        self._duration = instruments.CLIENT_OPERATION.create()
        self._sent = instruments.SENT_MESSAGES.create()
        self._attributes = instruments.of_messages("publish", "send", jetstream.stream)

    def hurry(self, seconds: float) -> None:
        """From now on, try each append for at most ``seconds``, including those already under way."""
        self._hurry_seconds = max(0.0, self._settle_seconds - seconds)

    async def publish(self, appends: Sequence[PendingAppend]) -> None:
        """Store the appends. Several go in one atomic batch, and must then have no expectations."""
        deadline = time.monotonic() + self._settle_seconds
        for append in appends:
            append.seen = self._newest
        try:
            self._writability.require_working()
            if len(appends) == 1:
                await self._alone(appends[0], deadline)
            else:
                await self._together(appends, deadline)
        except LogNotWritable as error:
            for append in appends:
                append.fail(error)
        except Exception:
            logger.exception("an append failed in a way that nobody thought of")
        finally:
            for append in appends:
                if not append.result.done():
                    append.fail(_unknown(append))

    async def _together(self, appends: Sequence[PendingAppend], deadline: float) -> None:
        messages = [message for append in appends for message in append.messages]
        try:
            ack = await self._until_answered(messages, deadline)
        except (_Final, TooLarge) as error:
            if isinstance(error, _Final) and error.code in NO_STORAGE and not error.uncertain:
                for append in appends:
                    append.fail(self._writability.refusal())
                return
            # One bad append makes the server reject the whole batch, and it does not say which one.
            for append in appends:
                await self._alone(append, deadline, uncertain=isinstance(error, _Final) and error.uncertain)
            return
        except UnknownOutcome:
            for append in appends:
                append.fail(_unknown(append))
            return
        except SuiteError as error:
            for append in appends:
                append.fail(error)
            return
        seq = self._note(ack.seq) - len(messages)
        for append in appends:
            seq += len(append.messages)
            append.resolve(seq)

    async def _alone(self, append: PendingAppend, deadline: float, *, uncertain: bool = False) -> None:
        try:
            append.resolve(self._note(await self._store(append, deadline, uncertain=uncertain)))
        except UnknownOutcome:
            append.fail(_unknown(append))
        except SuiteError as error:
            append.fail(error)

    async def _store(self, append: PendingAppend, deadline: float, *, uncertain: bool) -> int:
        messages = list(append.messages)
        if append.expect is not None:
            messages[0] = _expecting(messages[0], append.expect)
        try:
            return (await self._until_answered(messages, deadline, uncertain=uncertain)).seq
        except _Final as final:
            if final.code == DUPLICATE_IN_BATCH and final.uncertain:
                # The ids belong to this batch alone, so it is stored. Its last event, sent by itself, is then
                # a duplicate, and the answer has its sequence.
                return await self._seq_of_stored(append, deadline)
            if final.code == WRONG_LAST_SEQUENCE and append.expect is not None:
                if final.uncertain or not append.fresh:
                    seq = await self._look(append, append.expect, deadline)
                    if seq is not None:
                        return seq
                raise Conflict(
                    f"the last event of {append.expect.subject} is not {append.expect.last_seq} any more"
                    f" ({final}): read it again and decide again"
                ) from final
            if final.uncertain:
                raise UnknownOutcome() from final
            if final.code in NO_STORAGE:
                raise self._writability.refusal() from final
            raise Unavailable(f"the log refuses events: {final}") from final

    async def _seq_of_stored(self, append: PendingAppend, deadline: float) -> int:
        try:
            return (await self._until_answered(append.messages[-1:], deadline, uncertain=True)).seq
        except _Final as final:
            raise UnknownOutcome() from final

    async def _until_answered(
        self, messages: Sequence[Outgoing], deadline: float, *, uncertain: bool = False
    ) -> PubAck:
        """Repeat the same publish until the server's answer is final.

        Raises _Final, UnknownOutcome if no final answer came, Unavailable if nothing was stored.
        """
        pause, publish = _FIRST_PAUSE, self._publish
        while True:
            life = self._jetstream.connection.connections
            try:
                ack = await publish(messages, self._patience(deadline))
                if not ack.duplicate:  # a broken store still acknowledges events that were stored before
                    self._writability.note_stored()
                return ack
            except NoAnswer as error:
                uncertain, reason = True, str(error)
                if await self._was_passed_over(messages[-1].subject, life):
                    publish = self._publish_watched  # the answer may have been late, or lost in transit
                    continue
            except _PassedOver as error:
                self._writability.note_write_failure()
                raise UnknownOutcome() from error
            except NotSent as error:
                reason = str(error)
            except (TooLarge, AccessDenied, InvalidRequest):
                if uncertain:
                    raise UnknownOutcome() from None
                raise
            except Refused as refused:
                if refused.code in NO_STORAGE:
                    self._writability.note_refusal(str(refused))
                if refused.code not in TRANSIENT:
                    raise _Final(refused, uncertain=uncertain) from refused
                reason = str(refused)
            pause = await self._pause(pause, deadline, uncertain, reason)

    async def _was_passed_over(self, subject: str, life: int) -> bool:
        """Whether the server has processed all earlier messages on this connection, answered or not."""
        try:
            await self._jetstream.probe(subject, timeout=_PROBE_SECONDS)
            if await self._is_replicated():
                return False
        except (NoAnswer, NotSent, Refused, SuiteError):
            return False
        return life == self._jetstream.connection.connections

    async def _is_replicated(self) -> bool:
        if not self._jetstream.connection.is_clustered:
            return False
        info = await self._jetstream.info(timeout=_PROBE_SECONDS)
        return int(info.config.get("num_replicas", 1)) > 1

    async def _publish(self, messages: Sequence[Outgoing], seconds: float) -> PubAck:
        with Timed(self._duration, self._attributes):
            ack = await self._jetstream.publish(messages, timeout=seconds)
        self._sent.add(len(messages), self._attributes)
        return ack

    async def _publish_watched(self, messages: Sequence[Outgoing], seconds: float) -> PubAck:
        """Publish, then send a probe: on one connection the answers come in the order of the requests.

        Raises _PassedOver if only the probe is answered, otherwise the same errors as a publish.
        """
        life = self._jetstream.connection.connections
        ack: PubAck | None = None
        failure: Exception | None = None

        async def publish() -> None:
            nonlocal ack, failure
            try:
                ack = await self._publish(messages, seconds + _PROBE_SECONDS)
            except (NoAnswer, NotSent, Refused, SuiteError) as error:
                failure = error
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            await anyio.sleep(_PROBE_AFTER_SECONDS)
            if await self._was_passed_over(messages[-1].subject, life):
                await anyio.sleep(_PROBE_AFTER_SECONDS)
                failure = _PassedOver()
                tasks.cancel_scope.cancel()
        if ack is not None:
            return ack
        assert failure is not None
        raise failure

    async def _look(self, append: PendingAppend, expect: Expectation, deadline: float) -> int | None:
        """Search for the append in the log.

        Returns the sequence of its last event, or None if it was not stored and never will be.
        """
        first = append.messages[0]
        covered = subject_matches(expect.subject, first.subject)
        subject = expect.subject if covered else first.subject
        after = expect.last_seq
        if not covered and append.fresh:
            after = max(after, append.seen)
        for _ in range(_LOOK_LIMIT):
            found = await self._next(subject, after, deadline)
            if found is None:
                return None
            if found.headers.get(MESSAGE_ID) == first.headers[MESSAGE_ID]:
                return found.seq + len(append.messages) - 1
            if covered:  # under the expectation, only the very next message can be ours
                return None
            after = found.seq
        raise UnknownOutcome()

    async def _next(self, subject: str, after: int, deadline: float) -> Stored | None:
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._jetstream.next(subject, after=after, timeout=self._patience(deadline))
            except (NoAnswer, NotSent, Refused) as error:
                pause = await self._pause(pause, deadline, True, str(error))

    def _patience(self, deadline: float) -> float:
        return max(0.05, min(self._attempt_seconds, self._left(deadline)))

    def _left(self, deadline: float) -> float:
        return deadline - self._hurry_seconds - time.monotonic()

    async def _pause(self, pause: float, deadline: float, uncertain: bool, reason: str) -> float:
        """Wait before the next attempt, also for a lost connection to come back. Returns the next pause.

        Raises UnknownOutcome or Unavailable at the deadline.
        """
        left = self._left(deadline)
        if left > pause:
            await anyio.sleep(pause)
            try:
                await self._jetstream.connection.wait_connected(left - pause)
            except Unavailable as error:
                reason = error.message
            else:
                return min(2 * pause, _LONGEST_PAUSE)
        if uncertain:
            raise UnknownOutcome()
        tried = self._settle_seconds - self._hurry_seconds
        raise Unavailable(f"nothing was stored within {tried:g} s: {reason}")

    def _note(self, seq: int) -> int:
        self._newest = max(self._newest, seq)
        return seq


def subject_matches(subject_filter: str, subject: str) -> bool:
    """Whether a subject matches a filter with NATS wildcards."""
    wanted, tokens = subject_filter.split("."), subject.split(".")
    for position, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > position
        if position >= len(tokens) or token not in ("*", tokens[position]):
            return False
    return len(wanted) == len(tokens)


def _expecting(message: Outgoing, expect: Expectation) -> Outgoing:
    headers = {**message.headers, EXPECTED_SEQ: str(expect.last_seq)}
    if expect.subject != message.subject:
        headers[EXPECTED_SUBJECT] = expect.subject
    return Outgoing.build(message.subject, message.body, headers)


def _unknown(append: PendingAppend) -> UnknownOutcome:
    return UnknownOutcome(
        f"no answer came for event {append.event_id}: ask for it by its id, or append it again under that id",
        event_id=append.event_id,
    )
