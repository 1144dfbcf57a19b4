"""A web server on loopback that answers with whatever bytes a test wants, as slowly as it wants."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import anyio
import anyio.abc
from anyio.streams.tls import TLSListener

Answer: TypeAlias = bytes | Sequence[bytes | float]
"""What is sent, or in turn what is sent and for how many seconds nothing is; then the connection ends."""
Answers: TypeAlias = Callable[[str], Answer]
"""Gives the answer for a path."""


class Web:
    """What the server has, and which heads of requests came."""

    def __init__(self, port: int, answers: dict[str, Answer], otherwise: Answers) -> None:
        self.port = port
        self.answers = answers
        self.asked: list[bytes] = []
        self._otherwise = otherwise

    def url(self, path: str, *, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        async with stream:
            try:
                asked = await _head(stream)
                self.asked.append(asked)
                path = asked.split(b" ")[1].decode().partition("?")[0]
                answer = self.answers[path] if path in self.answers else self._otherwise(path)
                for each in [answer] if isinstance(answer, bytes) else answer:
                    if isinstance(each, bytes):
                        await stream.send(each)
                    else:
                        await anyio.sleep(each)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass  # the client has heard enough


NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


def found(body: bytes, *headers: str) -> bytes:
    """An answer with this body."""
    return head(200, f"content-length: {len(body)}", *headers) + body


def head(status: int, *headers: str) -> bytes:
    """What comes before a body."""
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} Told", *headers, "")).encode()


@asynccontextmanager
async def web(
    answers: Mapping[str, Answer],
    *,
    otherwise: Answers = lambda _: NOT_FOUND,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Web]:
    """A server with these answers by path, until the block ends; other paths get what `otherwise` gives."""
    listener: anyio.abc.Listener[anyio.abc.ByteStream] = await anyio.create_tcp_listener(
        local_host="127.0.0.1"
    )
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    if tls is not None:
        listener = TLSListener(listener, tls, standard_compatible=False)
    site = Web(port, dict(answers), otherwise)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, site.serve)
        yield site
        tasks.cancel_scope.cancel()


async def _head(stream: anyio.abc.ByteStream) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    return data
