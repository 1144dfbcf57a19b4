"""Names that only one may have at a time, in a NATS key-value bucket in memory (NATS ADR-8)::

    claims = Claims(connection, "SUITE_GENERATIONS", seconds=3600)
    taken = await claims.take("0199c0de", b"box1")   # Taken, or what the one says who has it
    await claims.release(taken)

A name is taken by one message that must be the first of its subject, and is free again when that message is
deleted or has expired. So taking one costs a round trip, and nothing stays.
"""

from __future__ import annotations

from typing import Final

import anyio
import msgspec

from suite.bus.connection import Connection
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
from suite.errors import NoService, Unavailable
from suite.identity import new_id

API_SECONDS: Final = 2.0
AGAIN_SECONDS: Final = 0.02


class Taken(msgspec.Struct, frozen=True):
    """A name that is one's own, until it is released."""

    seq: int


class Claims:
    """One bucket of names, through one connection. It is made when a name is first taken."""

    def __init__(self, connection: Connection, bucket: str, *, seconds: float, replicas: int = 1) -> None:
        """`seconds`: when a name that nobody releases is free again; `replicas`: of the bucket."""
        self._connection = connection
        self._values = KeyValues(connection, bucket, timeout=API_SECONDS)
        self._seconds = seconds
        self._replicas = replicas

    async def take(self, name: str, value: bytes) -> Taken | bytes:
        """Take a name, or get the value of the one who has it.

        Raises Unavailable, RequestTimeout or NoService.
        """
        try:
            return await self._take(name, value, after=0)
        except NoService:
            await self._create()
            return await self._take(name, value, after=0)

    async def take_over(self, name: str, value: bytes, former: bytes) -> Taken | bytes:
        """Take a name from one who cannot have it any more, or get the value of another who has it now."""
        last = await self._values.last(name)
        if last is not None and last.value != former:
            return last.value
        return await self._take(name, value, after=0 if last is None else last.seq)

    async def release(self, taken: Taken) -> None:
        """Let others have a name. Raises Unavailable, RequestTimeout or NoService."""
        asked = {"seq": taken.seq, "no_erase": True}
        answer = await self._values.api(f"STREAM.MSG.DELETE.{self._values.stream}", asked)
        if (error := answer.get("error")) is not None and error.get("err_code") in TRANSIENT:
            raise Unavailable(f"a name cannot be released: {error.get('description', error)}")

    async def _take(self, name: str, value: bytes, *, after: int) -> Taken | bytes:
        try:
            return Taken(await self._put(name, value, after))
        except Refused as refused:
            if refused.code != WRONG_LAST_SEQUENCE:
                raise Unavailable(f"the name {name} cannot be taken: {refused}") from refused
        last = await self._values.last(name)
        return b"" if last is None else last.value

    async def _put(self, name: str, value: bytes, after: int) -> int:
        """Set a value. In a cluster it may take a moment until it knows who was first."""
        until = anyio.current_time() + API_SECONDS
        while True:
            try:
                return await self._values.put(name, value, after=after)
            except Refused as refused:
                if refused.code not in TRANSIENT or anyio.current_time() >= until:
                    raise
            await anyio.sleep(AGAIN_SECONDS)

    async def _create(self) -> None:
        """Make the bucket where there is none. An existing one stays as it is."""
        answer = await self._values.api(f"STREAM.INFO.{self._values.stream}", None)
        if answer.get("error", {}).get("err_code") != STREAM_NOT_FOUND:
            return
        configuration = {
            "name": self._values.stream,
            "subjects": [f"{self._values.prefix}>"],
            "max_msgs_per_subject": 1,
            "max_age": int(self._seconds * 1e9),
            "discard": "new",
            "storage": "memory",
            "allow_direct": True,
        }
        try:
            bucket = JetStream(self._connection, self._values.stream, new_id=new_id)
            await create_replicated(bucket, configuration, replicas=self._replicas)
        except (Refused, NotSent, NoAnswer) as error:
            raise Unavailable(f"the bucket {self._values.stream} cannot be made: {error}") from error
