"""A pull consumer without acknowledgements, whose numbering is checked.

Such a consumer loses what is on its way when the connection goes, and an idle loss is invisible in the
messages themselves. So it counts as lost, to be made again behind the last event that was read, at every
jump of its numbering, every loss of the connection, every status that says it is gone, and whenever the
server has delivered more than has come.
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
"""What one pull brings at most, so that messages which wait to be taken cost little memory."""
EXPIRES_SECONDS: Final = 30.0
HEARTBEAT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 12.0
"""More than two heartbeats: the server has forgotten the pull."""
INACTIVE_SECONDS: Final = 60.0
"""After which the server removes the consumer of a reader that is gone."""
WAKE_SECONDS: Final = 0.5

DeliverPolicy: TypeAlias = Literal["by_start_sequence", "last_per_subject"]

_GONE: Final = frozenset({"409", "503"})
_ENDED: Final = frozenset({"Batch Completed", "Message Size Exceeds MaxBytes"})
"""A 409 with this says of one pull that it has brought what it may: the consumer is still there."""


class Delivered(NamedTuple):
    """A message with where it stands: in the stream, in this consumer, and how many come after it."""

    message: Message
    seq: int
    number: int
    pending: int
    stored: datetime
    """When, by the server's clock."""


class Lost(Exception):
    """This consumer cannot be relied on any more: make it again."""


class Consumer:
    """One incarnation of a consumer on the server and what it has delivered so far.

    ``batch`` messages are asked for at a time, as soon as less than half of that is on its way.
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
        """How many messages there were for it when it was made."""

    @property
    def name(self) -> str:
        """Its name on the server."""
        return str(self._config["name"])

    @property
    def buffered(self) -> int:
        """How many messages have come and not been taken."""
        return len(self._buffer)

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

    async def next(self, *, follow: bool) -> Delivered | None:
        """The next message; None when, not following, there is none left. Raises Lost."""
        while not self._buffer:
            came = await self.wait(WAKE_SECONDS)
            if not came and (self._check or not follow):
                self._check = False
                if await self.nothing_left() and not follow:
                    return None
        return (await self.take(1))[0]

    async def wait(self, seconds: float) -> bool:
        """Whether something is there to be taken, for which it waits so long. Raises Lost."""
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
        """What is there, up to a limit, and more is asked for in time. Raises Lost at a gap."""
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
        """Ask the server. Raises Lost when it has delivered what has not come."""
        try:
            info = await self._jetstream.consumer_info(self.name)
        except (Refused, NotSent, NoAnswer, SuiteError) as error:
            raise Lost(str(error)) from error
        if info.delivered.consumer_seq > self._number + len(self._buffer):
            await asyncio.sleep(WAKE_SECONDS)  # it may have been on its way beside the answer
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
    """A consumer in the server's memory that delivers what comes after a sequence, once, unacknowledged."""
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
    """A name that no other consumer has."""
    return new_id().replace("-", "")
