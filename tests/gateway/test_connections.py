"""What a connection costs and how long it lasts, whatever is sent on it. Each test speaks HTTP by hand."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import NamedTuple

import anyio
import anyio.lowlevel
import psutil
import pytest
from anyio.abc import SocketStream
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from suite.gateway.connection import Limits
from suite.gateway.server import serving
from suite.gateway.sse import gone
from suite.listening import listening

pytestmark = pytest.mark.asyncio

BODY_BYTES = 100_000
BRIEF = Limits(body_bytes=BODY_BYTES, head_bytes=8192, head_seconds=1.0, body_seconds=1.0, unread_seconds=0.5)
PATIENT = Limits(body_bytes=BODY_BYTES, connections=1200, head_bytes=8192)
IDLE = 500
MOST_IDLE_BYTES = 20_000_000
SECONDS = 20.0
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
WAIT = b"POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"


class Place(NamedTuple):
    """A server of a small application, and what that was asked."""

    port: int
    seen: list[tuple[bytes, dict[str, str]]]

    async def connect(self) -> SocketStream:
        return await anyio.connect_tcp("127.0.0.1", self.port)

    async def has_seen(self, what: bytes) -> None:
        """Wait until a request has got so far."""
        with anyio.fail_after(SECONDS / 4):
            while what not in (body for body, _ in self.seen):
                await anyio.sleep(0.01)

    async def ask(self, *pieces: bytes) -> bytes:
        """All that comes until the server closes the connection."""
        async with await self.connect() as stream:
            return await exchange(stream, *pieces)


async def drip(stream: SocketStream) -> None:
    """Send a request that never ends, slowly."""
    await stream.send(POST)
    while True:
        await stream.send(b"X: y\r\n")
        await anyio.sleep(0.05)


async def exchange(stream: SocketStream, *pieces: bytes) -> bytes:
    try:
        for piece in pieces:
            await stream.send(piece)
    except anyio.BrokenResourceError:
        pass
    return await rest(stream)


async def rest(stream: SocketStream) -> bytes:
    answer = b""
    with anyio.fail_after(SECONDS):
        try:
            while True:
                answer += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return answer


async def one(stream: SocketStream) -> bytes:
    """One short answer, on a connection that stays."""
    with anyio.fail_after(SECONDS):
        return await stream.receive()


@asynccontextmanager
async def place(limits: Limits) -> AsyncIterator[Place]:
    seen: list[tuple[bytes, dict[str, str]]] = []

    async def echo(request: Request) -> PlainTextResponse:
        body = await request.body()
        seen.append((body, dict(request.headers)))
        return PlainTextResponse(f"got {len(body)}")

    async def wait(request: Request) -> PlainTextResponse:
        seen.append((b"begun", {}))
        await request.body()
        await gone(request.receive)
        seen.append((b"gone", {}))
        return PlainTextResponse("nobody reads this")

    async def endless(_: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 100_000
                    await anyio.lowlevel.checkpoint()
            finally:
                seen.append((b"cut off", {}))

        return StreamingResponse(pieces())

    async def left(_: Request, __: Exception) -> PlainTextResponse:
        return PlainTextResponse("nobody reads this")

    app = Starlette(
        routes=[
            Route("/echo", echo, methods=["GET", "POST"]),
            Route("/wait", wait, methods=["POST"]),
            Route("/endless", endless),
        ],
        exception_handlers={ClientDisconnect: left},
    )
    with listening("127.0.0.1", 0) as bound:
        async with serving(app, bound, limits=limits, drain_seconds=1.0):
            yield Place(bound.getsockname()[1], seen)


def refused(answer: bytes, status: int) -> str:
    """The code of a refusal, of which there is one, with nothing after it."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"connection: close" in head
    code: str = json.loads(body)["error"]["code"]
    return code


SMUGGLED = {
    "two ends": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two ends, the other way round": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "two lengths in one": b"Content-Length: 5, 5\r\n\r\nhello",
    "a signed length": b"Content-Length: +5\r\n\r\nhello",
    "a negative length": b"Content-Length: -5\r\n\r\nhello",
    "a length in hexadecimal": b"Content-Length: 0x5\r\n\r\nhello",
    "a length that overflows": b"Content-Length: 99999999999999999999999\r\n\r\nhello",
    "chunked not last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "an unknown encoding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a folded header": b"X-A: b\r\n c: d\r\nContent-Length: 0\r\n\r\n",
    "a folded encoding": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"Content-Length : 5\r\n\r\nhello",
    "a zero byte": b"X-A: a\0b\r\nContent-Length: 0\r\n\r\n",
    "a header without a name": b": x\r\nContent-Length: 0\r\n\r\n",
    "bare line feeds": b"Content-Length: 5\n\nhello",
    "a size that is no number": b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n",
    "a negative size": b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    "a size that overflows": b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "a chunk that is longer than it says": b"Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n",
    "a second host": b"Host: y\r\nContent-Length: 0\r\n\r\n",
}


async def test_what_two_servers_could_understand_differently_is_refused() -> None:
    async with place(PATIENT) as server:
        for name, headers in SMUGGLED.items():
            answer = await server.ask(POST + headers + GET)
            assert refused(answer, 400) == "invalid_request", name
            assert answer.count(b"connection: close") == 1, name
        for other in (
            b"GET /echo HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ):
            assert refused(await server.ask(other), 400) == "invalid_request"
        assert not [body for body, _ in server.seen if b"GET" in body or b"Host" in body]
        assert b"got 5" in await server.ask(POST + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello")
        chunked = b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-Role: admin\r\n\r\n"
        assert b"got 5" in await server.ask(POST + b"Connection: close\r\n" + chunked)
        assert "x-role" not in server.seen[-1][1], "nobody has checked what comes after the body"


async def test_what_is_too_large_is_refused_before_it_is_there() -> None:
    async with place(PATIENT) as server:
        announced = POST + b"Content-Length: 100000000\r\n\r\n"
        for pieces in ([announced], [announced, b"x" * 200_000], [announced, *[b"x" * 1_000_000] * 100]):
            answer = await server.ask(*pieces)
            assert refused(answer, 413) == "too_large"
        waiting = await server.ask(POST + b"Expect: 100-continue\r\nContent-Length: 100000000\r\n\r\n")
        assert refused(waiting, 413) == "too_large", "it was not asked to go on"
        chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
        answer = await server.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 1000)
        assert refused(answer, 413) == "too_large"
        thin = b"1;" + b"e" * 1000 + b"\r\nx\r\n"
        answer = await server.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n", *[thin] * 1000)
        assert refused(answer, 413) == "too_large"
        for endless in (b"X-A: " + b"a" * 1_000_000, b"X: y\r\n" * 200_000):
            assert refused(await server.ask(POST + endless), 431) == "too_large"
        assert refused(await server.ask(b"GET /" + b"a" * 1_000_000), 431) == "too_large"
        assert refused(await server.ask(b"\r\n" * 100_000), 431) == "too_large"
        trailers = b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-A: " + b"a" * 1_000_000
        assert refused(await server.ask(POST + trailers), 413) == "too_large"
        assert not server.seen


HALVES = (
    b"",
    b"G",
    GET[:-2],
    b"\r\n",
    POST + b"Content-Length: 5\r\n\r\nhe",
    POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
)
"""What is sent, after which nothing comes any more."""


async def test_who_does_not_send_a_request_in_time_is_closed() -> None:
    async with place(BRIEF) as server, anyio.create_task_group() as tasks:

        async def half(sent: bytes) -> None:
            answer = await server.ask(sent)
            if sent:
                assert refused(answer, 408) == "slow_request"
            else:
                assert answer == b"", "nothing was asked"

        async def drop_by_drop() -> None:
            async with await server.connect() as stream, anyio.create_task_group() as dripping:
                dripping.start_soon(drip, stream)
                assert refused(await rest(stream), 408) == "slow_request"
                dripping.cancel_scope.cancel()

        async def again_and_again() -> None:
            async with await server.connect() as stream:
                for _ in range(3):  # each request has its own time
                    await stream.send(GET)
                    assert b"got 0" in await one(stream)
                    await anyio.sleep(0.4)
                assert refused(await exchange(stream, GET[:9]), 408) == "slow_request"

        for sent in HALVES:
            tasks.start_soon(half, sent)
        tasks.start_soon(drop_by_drop)
        tasks.start_soon(again_and_again)


@pytest.mark.parametrize("behind", [b"", GET, POST + b"Content-Length: 90000\r\n\r\n" + b"x" * 90_000])
async def test_a_client_that_is_gone_is_noticed_whatever_it_has_sent_behind_its_request(
    behind: bytes,
) -> None:
    async with place(PATIENT) as server:
        async with await server.connect() as stream:
            await stream.send(WAIT)
            await server.has_seen(b"begun")
            await stream.send(behind or b"\r\n")
            await anyio.sleep(0.05)
        await server.has_seen(b"gone")


async def test_a_request_behind_an_unfinished_one_is_to_be_sent_again() -> None:
    async with place(PATIENT) as server:
        answer = await server.ask(GET + GET + GET)
        assert answer.count(b"HTTP/1.1 200") == 1
        assert b"connection: close" in answer


async def test_a_client_that_reads_nothing_is_cut_off() -> None:
    async with place(BRIEF) as server, await server.connect() as stream:
        await stream.send(GET.replace(b"/echo", b"/endless"))
        await server.has_seen(b"cut off")


async def test_a_thousand_connections_that_send_nothing_leave_room_for_others() -> None:
    process = psutil.Process()
    async with place(PATIENT) as server:
        with ExitStack() as stack:

            async def open_idle(count: int) -> None:
                for _ in range(count):
                    idle = stack.enter_context(_unblocking())
                    await asyncio.get_running_loop().sock_connect(idle, ("127.0.0.1", server.port))

            async def is_served() -> None:
                async with await server.connect() as stream:
                    await stream.send(GET)
                    assert b"got 0" in await one(stream)

            await open_idle(100)  # what the first ones cost is not theirs
            await is_served()
            gc.collect()
            before = process.memory_info().rss
            await open_idle(IDLE)
            await is_served()
            gc.collect()
            assert process.memory_info().rss - before < MOST_IDLE_BYTES, "both ends of 500 connections"
            await open_idle(1000 - IDLE - 100)
            await is_served()
            await open_idle(PATIENT.connections - 1000)
            assert refused(await server.ask(), 429) == "overloaded"


def _unblocking() -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    return made
