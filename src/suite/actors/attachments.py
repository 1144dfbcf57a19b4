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

_encode = msgspec.json.Encoder().encode


class Attachments:
    """What senders of requests have attached to them."""

    def __init__(self, connection: Connection, subjects: Subjects, new_id: NewId) -> None:
        self._connection = connection
        self._subjects = subjects
        self._new_id = new_id

    async def fetch(self, source: str, digest: str) -> bytes:
        """The file with this SHA-256, from who listens to `source`.

        Raises RequestTimeout, PictureTooLarge, and InvalidPicture for something else than was announced.
        """
        most = min(PART_BYTES, self._connection.max_payload)
        answer = self._subjects.action(f"attachment.{self._new_id()}")
        parts_in, parts_out = anyio.create_memory_object_stream[bytes](1)

        async def receive(message: Message) -> None:
            if not parts_in.statistics().current_buffer_used:  # what nobody has asked for is left out
                parts_in.send_nowait(message.data)

        with parts_in, parts_out:
            subscription = await self._connection.listen(answer, receive)
            try:
                data = bytearray()
                while True:
                    ask = AskForPart(attached=digest, offset=len(data), length=most, answer=answer)
                    await self._connection.publish(source, _encode(ask))
                    part = await _next(parts_out)
                    if not part:
                        break
                    data += part
                    if len(data) > MOST_BYTES:
                        raise too_many_bytes(len(data))
            finally:
                with anyio.CancelScope(shield=True):
                    await subscription.unsubscribe()
        if sha256(data).hexdigest() != digest:
            raise InvalidPicture("the picture is not the one that was announced: send the request again")
        return bytes(data)


async def _next(parts: MemoryObjectReceiveStream[bytes]) -> bytes:
    with anyio.move_on_after(PART_SECONDS):
        return await parts.receive()
    raise RequestTimeout(
        f"no part of a picture came from the sender of the request for {PART_SECONDS:g} s: send it again"
    )
