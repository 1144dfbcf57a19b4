"""Fetches pictures from the senders of requests, part by part (`suite.messages.attachments`)."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import anyio
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream

from suite.bus.connection import Connection, Message
from suite.engine.pictures.image import MOST_BYTES, too_many_bytes
from suite.errors import InvalidPicture, RequestTimeout
from suite.identity import NewId
from suite.messages.attachments import AskForPart
from suite.messages.subjects import Subjects

PART_SECONDS: Final = 10.0
"""How long a sender may take for one part."""
PART_BYTES: Final = 512 << 10
"""The most bytes of a part, if a message may have as many."""
LEAST_BYTES: Final = 4 << 10
"""The fewest bytes of a part that is not the last one."""
FILE_SECONDS: Final = 120.0
"""How long a sender may take for a whole file."""

_encode = msgspec.json.Encoder().encode


class Attachments:
    """What senders of requests have attached to them."""

    def __init__(
        self, connection: Connection, subjects: Subjects, new_id: NewId, *, file_seconds: float = FILE_SECONDS
    ) -> None:
        self._connection = connection
        self._subjects = subjects
        self._new_id = new_id
        self._file_seconds = file_seconds

    async def fetch(self, source: str, digest: str) -> bytes:
        """The file with this SHA-256, from who listens to `source`.

        Raises RequestTimeout, PictureTooLarge, and InvalidPicture for something else than was announced.
        """
        with anyio.move_on_after(self._file_seconds):
            data = await self._received(source, digest)
            if sha256(data).hexdigest() != digest:
                raise InvalidPicture("the picture is not the one that was announced: send the request again")
            return data
        raise RequestTimeout(
            f"a picture did not come from the sender of the request within {self._file_seconds:g} s: send it "
            "again, or a smaller one"
        )

    async def _received(self, source: str, digest: str) -> bytes:
        most = min(PART_BYTES, self._connection.max_payload)
        answer = self._subjects.action(f"attachment.{self._new_id()}")
        first = AskForPart(attached=digest, offset=0, length=most, answer=answer)
        parts_in, parts_out = anyio.create_memory_object_stream[bytes](1)

        async def receive(message: Message) -> None:
            if not parts_in.statistics().current_buffer_used:  # what nobody has asked for is left out
                parts_in.send_nowait(message.data)

        with parts_in, parts_out:
            subscription = await self._connection.listen(answer, receive)
            try:
                return await self._joined(source, first, parts_out)
            finally:
                with anyio.CancelScope(shield=True):
                    await subscription.unsubscribe()

    async def _joined(self, source: str, first: AskForPart, parts: MemoryObjectReceiveStream[bytes]) -> bytes:
        """The parts of a file, each asked for after the one before it."""
        data, part = bytearray(), b""
        while True:
            ask = msgspec.structs.replace(first, offset=len(data))
            await self._connection.publish(source, _encode(ask))
            before, part = part, await _next(parts)
            if not part:
                return bytes(data)
            if data and len(before) < min(LEAST_BYTES, first.length):
                raise InvalidPicture(
                    f"a picture came in parts of {len(before)} bytes: send {LEAST_BYTES} at least, except in "
                    "the last one"
                )
            data += part
            if len(data) > MOST_BYTES:
                raise too_many_bytes(len(data))


async def _next(parts: MemoryObjectReceiveStream[bytes]) -> bytes:
    with anyio.move_on_after(PART_SECONDS):
        return await parts.receive()
    raise RequestTimeout(
        f"no part of a picture came from the sender of the request for {PART_SECONDS:g} s: send it again"
    )
