"""Leases: small values that expire unless they are renewed, in a NATS key-value bucket (NATS ADR-8).

    leases = await Leases.open(connection, "SUITE_NODES", ttl_seconds=5)
    await leases.put("box1", b"...")
    async for name, value in leases.watch(): ...     # value None: expired or deleted

The server decides by its own clock when a value expires, and publishes a marker (NATS ADR-43 and ADR-48).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio

from suite.bus.connection import Connection, Message
from suite.bus.jetstream import (
    STREAM_NOT_FOUND,
    TRANSIENT,
    WRONG_LAST_SEQUENCE,
    JetStream,
    NoAnswer,
    NotSent,
    Refused,
)
from suite.bus.key_values import KeyValues
from suite.bus.replicas import create_replicated
from suite.bus.stream_config import require
from suite.errors import (
    AccessDenied,
    NoService,
    RequestTimeout,
    ServerUnsuitable,
    SuiteError,
    Unavailable,
)
from suite.identity import new_id
from suite.messages.subjects import unescape

log = logging.getLogger("suite.bus")

API_SECONDS = 5.0
CLOSE_SECONDS = 1.0
"""Time limit for deleting a consumer or a lease. What is left the server deletes by itself."""
HEARTBEAT_SECONDS = 1.0
MISSED_HEARTBEATS = 3
ACK_TOKENS = 9
WAITING_LIMIT = 4096
RETRY_SECONDS = 0.5
DELETE_HEADERS = {"KV-Operation": "DEL"}
PREPARE_SECONDS = 10.0
"""How long opening a bucket waits for JetStream: a cluster may be choosing its leader."""
PREPARE_PAUSE_SECONDS = 0.1
VALUE_BYTES = 1024
"""The size of message that the bucket must at least allow, in bytes."""


class _Interrupted(Exception):
    """The deliveries may have a gap: the watch must start again."""


class Leases:
    """One bucket of leases, through one connection."""

    def __init__(self, connection: Connection, bucket: str, ttl_seconds: float, *, replicas: int = 1) -> None:
        self._connection = connection
        self._values = KeyValues(connection, bucket, timeout=API_SECONDS)
        self._ttl_seconds = ttl_seconds
        self._replicas = replicas

    @classmethod
    async def open(
        cls, connection: Connection, bucket: str, ttl_seconds: float, *, replicas: int = 1
    ) -> Leases:
        """Open the bucket and create it if it does not exist. A value lives ``ttl_seconds``, at least 1 s.

        A new bucket gets as many ``replicas`` as there are servers for; an existing one is used unchanged.
        Waits for a while if JetStream is choosing its leader. Raises ServerUnsuitable if the bucket's
        configuration does not fit, and Unavailable, also without JetStream.
        """
        leases = cls(connection, bucket, ttl_seconds, replicas=replicas)
        await leases._prepare()
        return leases

    async def put(self, name: str, value: bytes) -> None:
        """Set a value and start its lifetime anew. Raises Unavailable, RequestTimeout or NoService."""
        await self._store(name, value, {})

    async def delete(self, name: str) -> None:
        """Delete a value before it expires. Raises the same errors as put."""
        await self._store(name, b"", DELETE_HEADERS)

    async def take(self, name: str, value: bytes) -> bool:
        """Set a value, or renew it, if nobody else has set another. Returns whether it is set.

        ``value`` says who it is: the same value is one's own. Raises the same errors as put.
        """
        return await self._take(name, value) is not None

    async def watch(self) -> AsyncGenerator[tuple[str, bytes | None], None]:
        """Yield every existing value, then each change; None means that a value expired or was deleted.

        The watch survives lost connections, and then yields what has changed in the meantime.
        """
        present: set[str] = set()
        while True:
            try:
                async with self._deliveries() as deliveries:
                    seen: set[str] | None = set()
                    while True:
                        if seen is not None and deliveries.pending == 0:
                            for name in sorted(present - seen):
                                present.discard(name)
                                yield name, None
                            seen = None
                        name, value = await deliveries.next()
                        if seen is not None:
                            seen.add(name)
                        if value is not None:
                            present.add(name)
                            yield name, value
                        elif name in present:
                            present.discard(name)
                            yield name, None
            except (_Interrupted, Unavailable, AccessDenied, RequestTimeout, NoService) as error:
                log.warning("the watch on %s begins again: %s", self._values.stream, error)
                await anyio.sleep(RETRY_SECONDS)

    # --- the server's API -----------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        config = await self._found_or_created()
        require(
            config,
            {
                "subjects": [f"{self._values.prefix}>"],
                "max_age": self._ttl_ns,
                "max_msgs": -1,
                "max_bytes": -1,
            }
            | {"allow_msg_ttl": True, "sealed": False, "no_ack": False, "mirror": None, "sources": None},
            at_least={"subject_delete_marker_ttl": int(1e9), "max_msg_size": VALUE_BYTES},
            purpose="hold the leases of nodes",
        )

    async def _found_or_created(self) -> Mapping[str, Any]:
        """The bucket's configuration. Raises ServerUnsuitable and Unavailable."""
        jetstream = JetStream(self._connection, self._values.stream, new_id=new_id)
        reason = "JetStream does not answer"
        with anyio.move_on_after(PREPARE_SECONDS):
            while True:
                try:
                    return await self._looked_up(jetstream)
                except Refused as refused:
                    if refused.code not in TRANSIENT:
                        raise ServerUnsuitable(
                            f"the bucket {self._values.stream} cannot be used: {refused}"
                        ) from refused
                    reason = str(refused)
                except (NotSent, NoAnswer) as error:
                    reason = str(error)
                await anyio.sleep(PREPARE_PAUSE_SECONDS)
        raise Unavailable(f"the bucket {self._values.stream} cannot be opened: {reason}")

    async def _looked_up(self, jetstream: JetStream) -> Mapping[str, Any]:
        try:
            return (await jetstream.info()).config
        except Refused as refused:
            if refused.code != STREAM_NOT_FOUND:
                raise
        return (await create_replicated(jetstream, self._configuration, replicas=self._replicas)).config

    @property
    def _ttl_ns(self) -> int:
        return int(max(self._ttl_seconds, 1.0) * 1e9)

    @property
    def _configuration(self) -> dict[str, Any]:
        ttl_ns = self._ttl_ns
        return {
            "name": self._values.stream,
            "subjects": [f"{self._values.prefix}>"],
            "max_msgs_per_subject": 1,
            "max_age": ttl_ns,
            "duplicate_window": ttl_ns,
            "discard": "new",
            "storage": "file",
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "deny_delete": True,
            "allow_msg_ttl": True,
            "subject_delete_marker_ttl": ttl_ns,
        }

    async def _store(self, name: str, value: bytes, headers: dict[str, str]) -> None:
        try:
            await self._values.put(name, value, headers=headers)
        except Refused as refused:
            raise _not_stored(name, refused) from refused

    async def _take(self, name: str, value: bytes) -> int | None:
        """Set a value if there is no other. Returns its sequence; None if somebody else has set one."""
        last = await self._values.last(name)
        if last is None:
            return await self._store_after(name, value, 0)
        if not last.is_removed and last.value != value:
            return None
        return await self._store_after(name, value, last.seq)

    async def _store_after(self, name: str, value: bytes, seq: int) -> int | None:
        """Set a value if the last of its name has this sequence. Returns the new one.

        Returns None if it has not, or if somebody else is setting one in this moment.
        """
        try:
            return await self._values.put(name, value, after=seq)
        except Refused as refused:
            if refused.code in {WRONG_LAST_SEQUENCE, *TRANSIENT}:
                return None
            raise _not_stored(name, refused) from refused

    @asynccontextmanager
    async def _deliveries(self) -> AsyncGenerator[_Deliveries, None]:
        """Create a consumer that delivers the newest value of each name, then all later changes."""
        inbox = self._connection.new_inbox()
        consumer = f"{self._values.stream}.{inbox.rpartition('.')[2]}"
        deliveries = _Deliveries(self._connection, len(self._values.prefix))
        subscription = await self._connection.listen(inbox, deliveries.receive)
        try:
            configuration = {
                "name": consumer.rpartition(".")[2],
                "deliver_subject": inbox,
                "deliver_policy": "last_per_subject",
                "ack_policy": "none",
                "filter_subject": f"{self._values.prefix}>",
                "idle_heartbeat": int(HEARTBEAT_SECONDS * 1e9),
                "inactive_threshold": int(60 * 1e9),
                "mem_storage": True,
            }
            body = {"stream_name": self._values.stream, "config": configuration, "action": "create"}
            answer = await self._values.api(f"CONSUMER.CREATE.{consumer}", body)
            if answer.get("error", {}).get("err_code") == STREAM_NOT_FOUND:
                await self._prepare()
            if "error" in answer:
                raise _Interrupted(str(answer["error"]))
            if answer["num_pending"] == 0 and answer["delivered"]["consumer_seq"] == 0:
                deliveries.pending = 0
            yield deliveries
        finally:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await subscription.unsubscribe()
                try:
                    await self._values.api(f"CONSUMER.DELETE.{consumer}", None)
                except SuiteError as error:
                    log.debug("a consumer of %s is left to the server: %s", self._values.stream, error)


def _not_stored(name: str, refused: Refused) -> Unavailable:
    return Unavailable(f"the lease {name} is not stored: {refused}")


class _Deliveries:
    """The messages of one consumer, checked for gaps by the consumer's own sequence numbers."""

    def __init__(self, connection: Connection, prefix_length: int) -> None:
        self._connection = connection
        self._life = connection.connections
        self._prefix_length = prefix_length
        self._waiting: asyncio.Queue[Message] = asyncio.Queue()
        self._last = 0
        self.pending: int | None = None
        """How many messages the consumer still has to deliver; None until that is known."""

    async def receive(self, message: Message) -> None:
        if self._waiting.qsize() < WAITING_LIMIT:
            self._waiting.put_nowait(message)

    async def next(self) -> tuple[str, bytes | None]:
        """The next name and value. Raises _Interrupted at a gap, or when deliveries stop."""
        while True:
            message = await self._next_message()
            if not message.reply.startswith("$JS.ACK."):  # a heartbeat; a value could carry the same headers
                if message.headers.get("Nats-Last-Consumer", str(self._last)) != str(self._last):
                    raise _Interrupted("the last deliveries are missing")
                continue
            # $JS.ACK.<stream>.<consumer>.<tries>.<seq>.<number>.<time>.<pending>; a domain adds two tokens
            tokens = message.reply.split(".")
            number, pending = (tokens[8], tokens[10]) if len(tokens) > ACK_TOKENS else (tokens[6], tokens[8])
            self._last += 1
            if int(number) != self._last:
                raise _Interrupted(f"delivery {self._last} is missing")
            self.pending = int(pending)
            gone = "KV-Operation" in message.headers or "Nats-Marker-Reason" in message.headers
            try:
                name = unescape(message.subject[self._prefix_length :])
            except ValueError:  # not the name of a node: some other program put it there
                continue
            return name, None if gone else message.data

    async def _next_message(self) -> Message:
        for _ in range(MISSED_HEARTBEATS):
            with anyio.move_on_after(HEARTBEAT_SECONDS):
                return await self._waiting.get()
            if self._connection.connections != self._life or not self._connection.is_connected:
                break
        raise _Interrupted("nothing comes any more")
