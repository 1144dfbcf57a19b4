"""Objects in a NATS object store (NATS ADR-20): bytes under a name, until they expire or are deleted::

    store = await ObjectStore.open(connection, "SUITE_FILES", ttl_seconds=600, max_bytes=1 << 30, ...)
    await store.put("part", data)
    data = await store.get("part")

Any NATS tool can look into a bucket, such as `nats object ls SUITE_FILES`. What is deleted leaves no mark, as
names here stand for content. nats-py's own object store is not used: it waits for ever for a chunk that a
lost connection has swallowed. Objects are read by direct gets in batches (NATS ADR-31), so that no consumer
is left behind.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal, TypeAlias

import anyio
import anyio.to_thread
import msgspec

from suite.bus.connection import Connection, Message
from suite.bus.jetstream import (
    NO_STORAGE,
    STREAM_NOT_FOUND,
    JetStream,
    NoAnswer,
    NotSent,
    Outgoing,
    Refused,
    StreamInfo,
)
from suite.bus.replicas import create_replicated, raise_replicas
from suite.bus.stream_config import require
from suite.errors import NodeLost, NoService, StoreFull, SuiteError, Unavailable
from suite.identity import NewId

Storage: TypeAlias = Literal["file", "memory"]

CHUNK_BYTES: Final = 512 * 1024
"""How much of an object a message has, or less where the server takes less. With the 128 KiB of
other programs both ways take about 1.5 times as long."""
HEADER_BYTES: Final = 1024
READ_BATCH: Final = 1000
"""The most messages that a server sends for one direct get."""
STORE_SECONDS: Final = 5.0
LAG_TRIES: Final = 5
LAG_SECONDS: Final = 0.05
"""The pauses in which a server that is asked for chunks gets what the leader has already."""

_encode = msgspec.json.Encoder().encode


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a bucket says of an object, as NATS ADR-20 has it."""

    name: str
    bucket: str
    nuid: str
    size: int
    chunks: int
    digest: str
    deleted: bool = False


class ObjectStore:
    """One bucket, through one connection."""

    def __init__(self, connection: Connection, bucket: str, new_id: NewId) -> None:
        self._connection = connection
        self._bucket = bucket
        self._new_id = new_id
        self._stream = f"OBJ_{bucket}"
        self._jetstream = JetStream(connection, self._stream, new_id=new_id)

    @classmethod
    async def open(
        cls,
        connection: Connection,
        bucket: str,
        *,
        ttl_seconds: float,
        max_bytes: int,
        new_id: NewId,
        storage: Storage = "file",
        replicas: int = 1,
    ) -> ObjectStore:
        """Open the bucket, and create it if it does not exist. An existing one only gets more replicas.

        An object lives `ttl_seconds`. The bucket is on as many servers as `replicas` says, or as there are.
        Raises StoreFull if they have no room for a bucket of `max_bytes`, ServerUnsuitable, and Unavailable.
        """
        store = cls(connection, bucket, new_id)
        configuration = store._configuration(ttl_seconds, max_bytes, storage, replicas)
        with store._translated():
            info = await store._found(replicas) or await create_replicated(
                store._jetstream, configuration, replicas=replicas
            )
        require(
            info.config,
            {
                "subjects": store._subjects,
                "allow_direct": True,
                "allow_rollup_hdrs": True,
                "deny_purge": False,
            }
            | {"sealed": False, "no_ack": False, "mirror": None, "sources": None},
            at_least={},
            purpose="hold objects",
        )
        return store

    async def _found(self, replicas: int) -> StreamInfo | None:
        try:
            info = await self._jetstream.info()
        except Refused as refused:
            if refused.code != STREAM_NOT_FOUND:
                raise
            return None
        with suppress(Refused):  # it works as it is
            return await raise_replicas(self._jetstream, info, replicas=replicas)
        return info

    async def put(self, name: str, data: bytes) -> None:
        """Store an object; one of the same name is replaced. Raises StoreFull and Unavailable."""
        before = await self.info(name)
        nuid = self._new_id().replace("-", "")
        try:
            await self._put_chunks(nuid, data)
            info = ObjectInfo(
                name=name,
                bucket=self._bucket,
                nuid=nuid,
                size=len(data),
                chunks=math.ceil(len(data) / self._chunk_bytes),
                digest=await anyio.to_thread.run_sync(_digest, data),
            )
            await self._publish(self._meta(name), _encode(info), {"Nats-Rollup": "sub"})
        except BaseException:
            with anyio.move_on_after(STORE_SECONDS, shield=True), suppress(SuiteError):
                await self._purge(self._chunks(nuid))
            raise
        if before is not None:
            await self._purge(self._chunks(before.nuid))

    async def info(self, name: str) -> ObjectInfo | None:
        """What the bucket says of an object; None if it is not there. Raises Unavailable."""
        with self._translated():
            found = await self._jetstream.last(self._meta(name))
        try:
            info = None if found is None else msgspec.json.decode(found.body, type=ObjectInfo)
        except msgspec.MsgspecError:  # another program put it there
            return None
        return None if info is None or info.deleted else info

    async def get(self, name: str) -> bytes | None:
        """An object; None if it is not there, not whole, or damaged. Raises Unavailable."""
        info = await self.info(name)
        if info is None:
            return None
        data = b"".join([chunk async for chunk in self._read_all(info)])
        is_whole = await anyio.to_thread.run_sync(_digest, data) == info.digest
        return data if is_whole else None

    async def delete(self, name: str) -> None:
        """Remove an object, if it is there. Raises Unavailable."""
        info = await self.info(name)
        await self._purge(self._meta(name))
        if info is not None:
            await self._purge(self._chunks(info.nuid))

    # --- the wire -----------------------------------------------------------------------------------------

    async def _put_chunks(self, nuid: str, data: bytes) -> None:
        for at in range(0, len(data), self._chunk_bytes):
            await self._publish(self._chunks(nuid), data[at : at + self._chunk_bytes], {})

    async def _read_all(self, info: ObjectInfo) -> AsyncGenerator[bytes, None]:
        """The chunks of an object, as far as they are there. A replica may have the last a moment later."""
        seq, missing, tries = 1, info.chunks, LAG_TRIES
        while missing > 0 and tries:
            for message in await self._read(info.nuid, seq):
                seq = int(message.headers["Nats-Sequence"]) + 1
                missing -= 1
                yield message.data
            if missing > 0:
                tries -= 1
                await anyio.sleep(LAG_SECONDS)

    async def _read(self, nuid: str, seq: int) -> list[Message]:
        """The next chunks from a sequence on, as many as the server sends at once."""
        wanted = {"batch": READ_BATCH, "seq": seq, "next_by_subj": self._chunks(nuid)}
        subject = f"$JS.API.DIRECT.GET.{self._stream}"
        try:
            async with self._connection.request_many(
                subject, _encode(wanted), idle_timeout=STORE_SECONDS
            ) as answers:
                return [message async for message in answers]
        except (NodeLost, NoService) as error:
            raise Unavailable(f"the object store {self._bucket} does not answer: {error.message}") from None

    async def _publish(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        with self._translated():
            await self._jetstream.publish([Outgoing.build(subject, body, headers)], timeout=STORE_SECONDS)

    async def _purge(self, subject: str) -> None:
        with self._translated():
            await self._jetstream.purge(subject)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise what JetStream says as errors of the suite."""
        try:
            yield
        except Refused as refused:
            if refused.code in NO_STORAGE:
                raise StoreFull(
                    f"the object store {self._bucket} on NATS is full ({refused}): wait until other "
                    "transfers have ended, or give JetStream more space"
                ) from None
            raise Unavailable(f"the object store {self._bucket} cannot be used: {refused}") from None
        except (NotSent, NoAnswer) as error:
            raise Unavailable(f"the object store {self._bucket} does not answer: {error}") from None

    @property
    def _chunk_bytes(self) -> int:
        return min(CHUNK_BYTES, self._connection.max_payload - HEADER_BYTES)

    @property
    def _subjects(self) -> list[str]:
        return [f"$O.{self._bucket}.C.>", f"$O.{self._bucket}.M.>"]

    def _chunks(self, nuid: str) -> str:
        return f"$O.{self._bucket}.C.{nuid}"

    def _meta(self, name: str) -> str:
        return f"$O.{self._bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    def _configuration(
        self, ttl_seconds: float, max_bytes: int, storage: Storage, replicas: int
    ) -> dict[str, Any]:
        configuration = {
            "name": self._stream,
            "subjects": self._subjects,
            "max_age": int(ttl_seconds * 1e9),
            "max_bytes": max_bytes,
            "discard": "new",
            "storage": storage,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
        }
        # Nothing here has to survive a power failure, so a server need not sync it to its disk. With replicas
        # it has to.
        return configuration | ({"persist_mode": "async"} if storage == "file" and replicas == 1 else {})


def _digest(data: bytes) -> str:
    return f"SHA-256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()}"
