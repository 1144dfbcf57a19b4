"""A pull consumer without acknowledgements that checks its messages for gaps.

Such a consumer loses the messages that are in transit when the connection is lost. If no message follows, the
loss does not show in the numbering. So the consumer counts as lost, and must be made again after the last
event read, in each of these cases: a gap in the numbering, a lost connection, a status that says that it is
gone, and a server that has delivered more than has arrived.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import anyio

from suite.bus.connection import Message, Subscription
from suite.bus.jetstream import JetStream, NoAnswer, NotSent, Refused
from suite.errors import SuiteError
from suite.identity import NewId

logger = logging.getLogger("suite.log")

BATCH: Final = 512
PULL_BYTES: Final = 8 * 1024 * 1024
"""The most bytes that one pull may deliver. It limits the memory for messages that wait to be taken."""
EXPIRES_SECONDS: Final = 30.0
HEARTBEAT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 12.0
"""Longer than two heartbeats. After such a silence the server has forgotten the pull."""
INACTIVE_SECONDS: Final = 60.0
"""After this time the server deletes the consumer of a reader that is gone."""
WAKE_SECONDS: Final = 0.5

DeliverPolicy: TypeAlias = Literal["by_start_sequence", "last_per_subject"]

_GONE: Final = frozenset({"409", "503"})
_ENDED: Final = frozenset({"Batch Completed", "Message Size Exceeds MaxBytes"})
"""A 409 with one of these descriptions ends a pull that has reached its limit. The consumer still exists."""


class Delivered(NamedTuple):
    """A message with its numbers in the stream (``seq``) and in this consumer (``number``).

    ``pending`` is how many more messages the consumer had to deliver after it.
    """

    message: Message
    seq: int
    number: int
    pending: int
    stored: datetime
    """When it was stored, by the server's clock."""


class Lost(Exception):
    """This consumer is no longer reliable: make a new one."""


class Consumer:
    """One consumer on the server, and the messages it has delivered.

    It requests ``batch`` messages at a time, whenever fewer than half as many are outstanding.
    """

    def __init__(self, jetstream: JetStream, config: dict[str, Any], *, batch: int = BATCH) -> None:
        self._jetstream = jetstream
        self._connection = jetstream.connection
        self._config = config
        self._batch = batch
        self._inbox = self._connection.new_inbox()
        self._life = 0
        self._subscription: Subscription | None = None
        self._buffer: deque[Delivered] = deque()
        self._wake = asyncio.Event()
        self._outstanding = 0
        self._number = 0
        self._heard = time.monotonic()
        self._lost = ""
        self._check = False
        self.pending = 0
        """How many messages it had to deliver when it was created."""

    @property
    def name(self) -> str:
        """Its name on the server."""
        return str(self._config["name"])

    @property
    def buffered(self) -> int:
        """How many messages have arrived and were not taken yet."""
        return len(self._buffer)

    async def start(self) -> None:
        """Create it on the server. Raises Refused, NotSent, NoAnswer or Unavailable."""
        self._life = self._connection.connections
        self._subscription = await self._connection.listen(self._inbox, self._receive)
        self.pending = (await self._jetstream.create_consumer(self._config)).num_pending

    async def stop(self) -> None:
        """Delete it, if the server can be reached; otherwise the server deletes it after a minute."""
        with anyio.move_on_after(2, shield=True):
            try:
                if self._subscription is not None:
                    await self._subscription.unsubscribe()
                if self._connection.is_connected:
                    await self._jetstream.delete_consumer(self.name, timeout=1.5)
            except (Refused, NotSent, NoAnswer, SuiteError) as error:
                logger.debug("consumer %s is left to the server: %s", self.name, error)

    async def next(self, *, follow: bool) -> Delivered | None:
        """The next message. Without ``follow``, None when no message is left. Raises Lost."""
        while not self._buffer:
            came = await self.wait(WAKE_SECONDS)
            if not came and (self._check or not follow):
                self._check = False
                if await self.nothing_left() and not follow:
                    return None
        return (await self.take(1))[0]

    async def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for messages, and say whether there are any. Raises Lost."""
        if not self._buffer:
            self._require_alive()
            await self._refill()
        if not self._buffer:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
        if not self._buffer:
            self._require_alive()
        return bool(self._buffer)

    def wake(self) -> None:
        """End a wait early."""
        self._wake.set()

    async def take(self, limit: int) -> list[Delivered]:
        """Take up to ``limit`` messages that have arrived, and request more in time. Raises Lost at a gap."""
        taken = [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]
        for delivered in taken:
            self._number += 1
            if delivered.number != self._number:
                raise Lost(f"message {self._number} of it did not come")
        if not self._lost:
            await self._refill()
        return taken

    async def _refill(self) -> None:
        if self._outstanding < self._batch // 2:
            await self._pull()

    def _require_alive(self) -> None:
        if self._lost:
            raise Lost(self._lost)
        if not self._connection.is_connected or self._connection.connections != self._life:
            raise Lost("the connection went")
        if time.monotonic() - self._heard > SILENCE_SECONDS:
            raise Lost(f"nothing came for {SILENCE_SECONDS:g} s")

    async def _pull(self) -> None:
        try:
            await self._jetstream.pull(
                self.name,
                batch=self._batch,
                max_bytes=max(PULL_BYTES, 2 * self._connection.max_payload),
                expires=EXPIRES_SECONDS,
                heartbeat=HEARTBEAT_SECONDS,
                inbox=self._inbox,
            )
        except (NotSent, SuiteError) as error:
            raise Lost(str(error)) from error
        if not self._outstanding:
            self._heard = time.monotonic()
        self._outstanding += self._batch

    async def nothing_left(self) -> bool:
        """Ask the server whether no message is left. Raises Lost if it delivered some that did not come."""
        try:
            info = await self._jetstream.consumer_info(self.name)
        except (Refused, NotSent, NoAnswer, SuiteError) as error:
            raise Lost(str(error)) from error
        if info.delivered.consumer_seq > self._number + len(self._buffer):
            await asyncio.sleep(WAKE_SECONDS)  # a message may arrive a little after the answer
            if info.delivered.consumer_seq > self._number + len(self._buffer):
                raise Lost("the end of it did not come")
        return info.num_pending == 0 and not self._buffer

    async def _receive(self, message: Message) -> None:
        self._heard = time.monotonic()
        if message.reply.startswith("$JS.ACK."):
            tokens = message.reply.split(".")
            if len(tokens) > 9:  # with domain and account in front (ADR-15 of NATS)
                tokens = tokens[2:]
            self._outstanding -= 1
            stored = datetime.fromtimestamp(int(tokens[7]) / 1e9, UTC)
            self._buffer.append(Delivered(message, int(tokens[5]), int(tokens[6]), int(tokens[8]), stored))
        else:
            self._on_status(message)
        self._wake.set()

    def _on_status(self, message: Message) -> None:
        status = message.headers.get("Status", "")
        description = message.headers.get("Description", "")
        if status in _GONE and description not in _ENDED:
            self._lost = f"{status} {description}"
        elif status in ("404", "408", "409"):
            unused = message.headers.get("Nats-Pending-Messages", "")
            self._outstanding -= int(unused) if unused.isdigit() else self._outstanding
            self._check = True


def consumer_config(
    name: str, subject_filters: Sequence[str], *, after: int, policy: DeliverPolicy = "by_start_sequence"
) -> dict[str, Any]:
    """The configuration of a consumer, kept in the server's memory, that starts after a sequence.

    It delivers each message once, without acknowledgement.
    """
    start = {"opt_start_seq": after + 1} if policy == "by_start_sequence" else {}
    return {
        "name": name,
        "ack_policy": "none",
        "deliver_policy": policy,
        "filter_subjects": list(subject_filters),
        "inactive_threshold": int(INACTIVE_SECONDS * 1e9),
        "mem_storage": True,
        "num_replicas": 1,
        **start,
    }


def consumer_name(new_id: NewId) -> str:
    """A unique name for a consumer."""
    return new_id().replace("-", "")
