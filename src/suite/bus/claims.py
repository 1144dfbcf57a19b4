"""Names that only one may have at a time, in a NATS key-value bucket in memory (NATS ADR-8)::

    claims = Claims(connection, "SUITE_GENERATIONS", seconds=3600)
    taken = await claims.take("0199c0de", b"box1")   # Taken, or what the one says who has it
    await claims.release(taken)

A name is taken by one message that must be the first of its subject, and is free again when that message is
deleted or has expired. So taking one costs a round trip, and nothing stays.
"""

from __future__ import annotations

import base64
from typing import Any, Final

import anyio
import msgspec

from suite.bus.connection import Connection
from suite.bus.jetstream import (
    NO_MESSAGE,
    STREAM_NOT_FOUND,
    TRANSIENT,
    WRONG_LAST_SEQUENCE,
    JetStream,
    NoAnswer,
    NotSent,
    Refused,
)
from suite.bus.replicas import create_replicated
from suite.errors import NoService, Unavailable
from suite.identity import new_id
from suite.messages.subjects import escape

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
        self._stream = f"KV_{bucket}"
        self._subject = f"$KV.{bucket}"
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
        last = await self._last(name)
        if last is not None and last[1] != former:
            return last[1]
        return await self._take(name, value, after=0 if last is None else last[0])

    async def release(self, taken: Taken) -> None:
        """Let others have a name. Raises Unavailable, RequestTimeout or NoService."""
        await self._api(f"STREAM.MSG.DELETE.{self._stream}", {"seq": taken.seq, "no_erase": True})

    async def _take(self, name: str, value: bytes, *, after: int) -> Taken | bytes:
        reply = await self._publish(name, value, after)
        error = reply.get("error")
        if error is None:
            return Taken(int(reply["seq"]))
        if error.get("err_code") != WRONG_LAST_SEQUENCE:
            raise Unavailable(f"the name {name} cannot be taken: {error.get('description', error)}")
        last = await self._last(name)
        return b"" if last is None else last[1]

    async def _publish(self, name: str, value: bytes, after: int) -> dict[str, Any]:
        """What the server says. In a cluster it may take a moment until it knows who was first."""
        headers = {"Nats-Expected-Last-Subject-Sequence": str(after)}
        subject, until = f"{self._subject}.{escape(name)}", anyio.current_time() + API_SECONDS
        while True:
            answer = await self._connection.request(subject, value, headers=headers, timeout=API_SECONDS)
            reply: dict[str, Any] = msgspec.json.decode(answer.data)
            code = reply.get("error", {}).get("err_code")
            if code not in TRANSIENT or anyio.current_time() >= until:
                return reply
            await anyio.sleep(AGAIN_SECONDS)

    async def _last(self, name: str) -> tuple[int, bytes] | None:
        subject = f"{self._subject}.{escape(name)}"
        answer = await self._api(f"STREAM.MSG.GET.{self._stream}", {"last_by_subj": subject})
        if (message := answer.get("message")) is not None:
            return message["seq"], base64.b64decode(message.get("data", ""))
        if answer.get("error", {}).get("err_code") != NO_MESSAGE:
            raise Unavailable(f"the name {name} cannot be read: {answer.get('error')}")
        return None

    async def _create(self) -> None:
        """Make the bucket where there is none. An existing one stays as it is."""
        answer = await self._api(f"STREAM.INFO.{self._stream}", None)
        if answer.get("error", {}).get("err_code") != STREAM_NOT_FOUND:
            return
        configuration = {
            "name": self._stream,
            "subjects": [f"{self._subject}.>"],
            "max_msgs_per_subject": 1,
            "max_age": int(self._seconds * 1e9),
            "discard": "new",
            "storage": "memory",
            "allow_direct": True,
        }
        try:
            bucket = JetStream(self._connection, self._stream, new_id=new_id)
            await create_replicated(bucket, configuration, replicas=self._replicas)
        except (Refused, NotSent, NoAnswer) as error:
            raise Unavailable(f"the bucket {self._stream} cannot be made: {error}") from error

    async def _api(self, subject: str, body: dict[str, Any] | None) -> dict[str, Any]:
        data = b"" if body is None else msgspec.json.encode(body)
        answer = await self._connection.request(f"$JS.API.{subject}", data, timeout=API_SECONDS)
        reply: dict[str, Any] = msgspec.json.decode(answer.data)
        return reply
