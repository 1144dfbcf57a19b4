"""Reading the log without gaps: a pull consumer without acknowledgements, whose numbering is checked.

Such a consumer loses what is on its way when the connection goes, and an idle loss is invisible in the
messages themselves. So it is dropped and made again behind the last event that was read at every jump of
its numbering, every loss of the connection, every status that says it is gone, and whenever the server has
delivered more than has come.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any, Final, Literal, NamedTuple

import anyio
import msgspec

from suite.bus.connection import Message, Subscription
from suite.bus.jetstream import STREAM_NOT_FOUND, JetStream, NoAnswer, NotSent, Refused, Stored
from suite.errors import ServerUnsuitable, SuiteError, Unavailable
from suite.identity import NewId
from suite.messages.envelope import Recorded

logger = logging.getLogger("suite.log")

BATCH: Final = 512
REFILL_BELOW: Final = 256
EXPIRES_SECONDS: Final = 30.0
HEARTBEAT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 12.0
"""More than two heartbeats: the server has forgotten the pull."""
INACTIVE_SECONDS: Final = 60.0
"""After which the server removes the consumer of a reader that is gone."""
WAKE_SECONDS: Final = 0.5
PATIENCE_SECONDS: Final = 20.0
"""For how long a reader that does not follow goes on trying to reach the log."""

_GONE: Final = frozenset({"409", "503"})


class _Delivered(NamedTuple):
    """A message with where it stands: in the stream, in this consumer, and how many come after it."""

    message: Message
    seq: int
    number: int
    pending: int


class _Lost(Exception):
    """This consumer cannot be relied on any more: make it again."""


class _Consumer:
    """One incarnation of a consumer on the server and what it has delivered so far."""

    def __init__(self, jetstream: JetStream, config: dict[str, Any]) -> None:
        self._jetstream = jetstream
        self._connection = jetstream.connection
        self._config = config
        self._inbox = self._connection.new_inbox()
        self._life = 0
        self._subscription: Subscription | None = None
        self._buffer: deque[_Delivered] = deque()
        self._wake = asyncio.Event()
        self._outstanding = 0
        self._number = 0
        self._heard = time.monotonic()
        self._lost = ""
        self._check = False
        self.pending = 0
        """How many messages there were for it when it was made."""

    @property
    def name(self) -> str:
        """Its name on the server."""
        return str(self._config["name"])

    async def start(self) -> None:
        """Create it. Raises Refused, NotSent, NoAnswer or Unavailable."""
        self._life = self._connection.connections
        self._subscription = await self._connection.listen(self._inbox, self._receive)
        self.pending = (await self._jetstream.create_consumer(self._config)).num_pending

    async def stop(self) -> None:
        """Remove it, as far as the server can be reached; otherwise the server does so after a minute."""
        with anyio.move_on_after(2, shield=True):
            try:
                if self._subscription is not None:
                    await self._subscription.unsubscribe()
                if self._connection.is_connected:
                    await self._jetstream.delete_consumer(self.name, timeout=1.5)
            except (Refused, NotSent, NoAnswer, SuiteError) as error:
                logger.debug("consumer %s is left to the server: %s", self.name, error)

    async def next(self, *, follow: bool) -> _Delivered | None:
        """The next message; None when, not following, there is none left. Raises _Lost."""
        while not self._buffer:
            self._require_alive()
            if self._outstanding < REFILL_BELOW:
                await self._pull()
            self._wake.clear()
            try:
                async with asyncio.timeout(WAKE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                self._check = self._check or not follow
            if self._check and not self._buffer and not self._lost:
                self._check = False
                if await self._nothing_left() and not follow:
                    return None
        delivered = self._buffer.popleft()
        self._number += 1
        if delivered.number != self._number:
            raise _Lost(f"message {self._number} of it did not come")
        if self._outstanding < REFILL_BELOW and not self._lost:
            await self._pull()
        return delivered

    def _require_alive(self) -> None:
        if self._lost:
            raise _Lost(self._lost)
        if not self._connection.is_connected or self._connection.connections != self._life:
            raise _Lost("the connection went")
        if time.monotonic() - self._heard > SILENCE_SECONDS:
            raise _Lost(f"nothing came for {SILENCE_SECONDS:g} s")

    async def _pull(self) -> None:
        try:
            await self._jetstream.pull(
                self.name,
                batch=BATCH,
                expires=EXPIRES_SECONDS,
                heartbeat=HEARTBEAT_SECONDS,
                inbox=self._inbox,
            )
        except (NotSent, SuiteError) as error:
            raise _Lost(str(error)) from error
        if not self._outstanding:
            self._heard = time.monotonic()
        self._outstanding += BATCH

    async def _nothing_left(self) -> bool:
        """Ask the server. Raises _Lost when it has delivered what has not come."""
        try:
            info = await self._jetstream.consumer_info(self.name)
        except (Refused, NotSent, NoAnswer, SuiteError) as error:
            raise _Lost(str(error)) from error
        if info.delivered.consumer_seq > self._number + len(self._buffer):
            await asyncio.sleep(WAKE_SECONDS)  # it may have been on its way beside the answer
            if info.delivered.consumer_seq > self._number + len(self._buffer):
                raise _Lost("the end of it did not come")
        return info.num_pending == 0 and not self._buffer

    async def _receive(self, message: Message) -> None:
        self._heard = time.monotonic()
        if message.reply.startswith("$JS.ACK."):
            tokens = message.reply.split(".")
            if len(tokens) > 9:  # with domain and account in front (ADR-15 of NATS)
                tokens = tokens[2:]
            self._outstanding -= 1
            self._buffer.append(_Delivered(message, int(tokens[5]), int(tokens[6]), int(tokens[8])))
        else:
            self._on_status(message)
        self._wake.set()

    def _on_status(self, message: Message) -> None:
        status = message.headers.get("Status", "")
        if status in _GONE:
            self._lost = f"{status} {message.headers.get('Description', '')}"
        elif status in ("404", "408"):
            unused = message.headers.get("Nats-Pending-Messages", "")
            self._outstanding -= int(unused) if unused.isdigit() else self._outstanding
            self._check = True


class Reader:
    """Reads the stream for as many readers as there are."""

    def __init__(self, jetstream: JetStream, *, new_id: NewId) -> None:
        self._jetstream = jetstream
        self._new_id = new_id

    async def read(
        self, subject_filter: str, *, after: int, follow: bool, last_per_subject: bool
    ) -> AsyncGenerator[Recorded, None]:
        """All events under the filter in order, each once. Raises Unavailable, or ServerUnsuitable."""
        end = None if follow else await self._end()
        if end is not None and end <= after:
            return
        place, policy = after, _policy(last_per_subject)
        patience = _Patience(follow)
        while True:
            consumer = _Consumer(self._jetstream, self._config(subject_filter, place, policy))
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
                    event = recorded(_stored(delivered))
                    if event is not None:
                        yield event
                    if place == end:
                        return
                return
            except _Lost as lost:
                logger.info("reading on after event %d with a new consumer: %s", place, lost)
                patience.excuse(lost)
            except Refused as refused:
                if refused.code == STREAM_NOT_FOUND:
                    raise ServerUnsuitable(f"the stream {self._jetstream.stream} is gone") from refused
                patience.excuse(refused)
            except (NotSent, NoAnswer, Unavailable) as error:
                patience.excuse(error)
            finally:
                await consumer.stop()
            await patience.pause()

    async def last(self, subject_filter: str) -> Recorded | None:
        """The newest event under the filter, from the leader. Raises Unavailable."""
        patience = _Patience(False)
        while True:
            try:
                found = await self._jetstream.last(subject_filter)
                return recorded(found) if found is not None else None
            except (Refused, NotSent, NoAnswer) as error:
                patience.excuse(error)
            await patience.pause()

    async def _end(self) -> int:
        patience = _Patience(False)
        while True:
            try:
                return (await self._jetstream.info()).state.last_seq
            except (Refused, NotSent, NoAnswer) as error:
                patience.excuse(error)
            await patience.pause()

    def _config(self, subject_filter: str, place: int, policy: _Policy) -> dict[str, Any]:
        start = {"opt_start_seq": place + 1} if policy == "by_start_sequence" else {}
        return {
            "name": self._new_id().replace("-", ""),
            "ack_policy": "none",
            "deliver_policy": policy,
            "filter_subject": subject_filter,
            "inactive_threshold": int(INACTIVE_SECONDS * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
            **start,
        }


_Policy = Literal["by_start_sequence", "last_per_subject"]


def _policy(last_per_subject: bool) -> _Policy:
    return "last_per_subject" if last_per_subject else "by_start_sequence"


class _Patience:
    """How long a reader goes on when the log does not answer: for ever if it follows."""

    def __init__(self, follow: bool) -> None:
        self._follow = follow
        self._since = time.monotonic()
        self._pause = 0.0

    def reset(self) -> None:
        self._since = time.monotonic()
        self._pause = 0.0

    def excuse(self, error: Exception) -> None:
        if not self._follow and time.monotonic() - self._since > PATIENCE_SECONDS:
            raise Unavailable(f"the log cannot be read: {error}") from error
        self._pause = min(1.0, max(0.05, 2 * self._pause))

    async def pause(self) -> None:
        await anyio.sleep(self._pause)


def recorded(stored: Stored) -> Recorded | None:
    """The event in a stored message; None, logged, for what the suite cannot have written."""
    try:
        return Recorded.read(stored.seq, stored.subject, stored.headers, stored.body)
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        logger.error("message %d on %s is no event: %r", stored.seq, stored.subject, error)
        return None


def _stored(delivered: _Delivered) -> Stored:
    message = delivered.message
    return Stored(seq=delivered.seq, subject=message.subject, headers=message.headers, body=message.data)
