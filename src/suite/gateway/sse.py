"""An answer that is sent piece by piece, to a client that may vanish or read slowly.

Pieces are put without waiting, and one task sends those that there are in one write. The status is not sent
before the first piece, so that an error until then keeps its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import anyio
from starlette.types import Message, Receive, Send

from suite.tasks import background

EVENT_STREAM: Final = "text/event-stream"
KEEP_ALIVE_SECONDS: Final = 10.0
"""After how long without a piece a sign of life is sent, the first one included."""
MOST_UNSENT_BYTES: Final = 1 << 20
"""How much a client may leave unread, beside what is in the buffers of the connection."""


class PieceStream:
    """The pieces of one answer on their way to its client."""

    def __init__(
        self,
        send: Send,
        *,
        media_type: str,
        keep_alive: Callable[[], bytes],
        on_overflow: Callable[[], None],
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
        most_unsent_bytes: int = MOST_UNSENT_BYTES,
    ) -> None:
        """``on_overflow`` is called when the client leaves too much unread.

        One piece is never too much: it counts once another one comes behind it.
        """
        self._write = send
        self._media_type = media_type
        self._keep_alive = keep_alive
        self._on_overflow = on_overflow
        self._keep_alive_seconds = keep_alive_seconds
        self._most_unsent_bytes = most_unsent_bytes
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._news = asyncio.Event()  # anyio's cannot be cleared, and there is one piece for each token
        self._writes = 0
        self._is_blocked = False
        """Whether the client has to read before more can be sent."""
        self._ended = False
        self.has_begun = False
        """Whether the status is decided: something was sent, or is about to be."""

    def put(self, piece: bytes) -> None:
        """Have a piece sent. An empty one is none."""
        if not piece:
            return
        self.has_begun = True
        left = len(self._unsent)
        self._unsent.append(piece)
        self._unsent_bytes += len(piece)
        if left and self._is_blocked and self._unsent_bytes > self._most_unsent_bytes:
            self._on_overflow()
        self._news.set()

    def end(self) -> None:
        """Have the answer end after the pieces so far."""
        self._ended = True
        self._news.set()

    async def run(self) -> None:
        """Send the pieces until the end."""
        async with background() as tasks:
            tasks.start_soon(self._stay_alive)
            await self._news.wait()
            self.has_begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers()})
            more = True
            while more:
                await self._news.wait()
                more = not self._ended
                await self._send({"type": "http.response.body", "body": self._take(), "more_body": more})

    async def _send(self, message: Message) -> None:
        self._is_blocked = True  # others see it only if this waits
        await self._write(message)
        self._is_blocked = False

    async def _stay_alive(self) -> None:
        """Put signs of life while nothing else is sent."""
        while True:
            writes = self._writes
            await anyio.sleep(self._keep_alive_seconds)
            if self._writes == writes and not self._unsent:
                self.put(self._keep_alive())

    def _take(self) -> bytes:
        """All pieces so far."""
        self._news.clear()
        self._writes += 1
        body = b"".join(self._unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        return body

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (b"content-type", self._media_type.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),  # nginx would collect the pieces
        ]


def event(data: bytes) -> bytes:
    """One server-sent event without a name."""
    return b"data: " + data + b"\n\n"


def named_event(name: str, data: bytes) -> bytes:
    """One server-sent event with a name."""
    return b"event: " + name.encode() + b"\n" + event(data)


def comment(text: str) -> bytes:
    """A server-sent comment, which clients ignore."""
    return f": {' '.join(text.split())}\n\n".encode()


async def gone(receive: Receive) -> None:
    """Return when the client has closed the connection. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
