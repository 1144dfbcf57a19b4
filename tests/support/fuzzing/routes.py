"""Requests of all routes of the gateway, mutated: what they say, their bytes, and HTTP itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http.client import HTTPException, HTTPResponse
from io import BytesIO
from random import Random
from typing import Any, BinaryIO, Final, NamedTuple
from urllib.parse import quote, urlencode

from support.fuzzing.mutation import encoded, junk, mutated_bytes, mutated_document
from support.fuzzing.run import Target
from support.fuzzing.service import FuzzedService
from support.fuzzing.shapes import ENDLESS, Shape, shapes
from support.gateway import RunningGateway

SECONDS: Final = 60.0
AT_ONCE: Final = 24
_UNLIKELY: Final = (500, 501, 502, 504)
_BUGS: Final = (b"the service failed on this request", b"an error in the gateway itself", b'"internal"')
"""What an answer has, at its beginning or later in its stream, if a bug is behind it."""
_METHODS: Final = (
    "GET",
    "POST",
    "HEAD",
    "OPTIONS",
    "DELETE",
    "PUT",
    "PATCH",
    "CONNECT",
    "TRACE",
    "GE\tT",
    "",
)
_HEADERS: Final = (
    *(
        "Authorization: Bearer sk-x",
        "Authorization: Basic \xff",
        "x-api-key: x",
        "Host: evil.example",
        "Host:",
    ),
    *(
        "Origin: https://evil.example",
        "Content-Type: text/plain",
        "Content-Type: application/json; charset=utf-16",
    ),
    *(
        "Content-Encoding: gzip",
        "Expect: 100-continue",
        "Upgrade: websocket\r\nConnection: Upgrade",
        "Upgrade: h2c",
    ),
    *(
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Content-Length: 0",
        "Content-Length: -1",
    ),
    *(
        "Content-Length: 99999999999999999999",
        "Range: bytes=0-1",
        "Accept: text/event-stream",
        "Accept-Encoding: br",
    ),
    *(
        "x-request-id: \x01",
        "x-session-id: a b",
        "traceparent: 00-x",
        "X-Forwarded-For: 1.2.3.4",
        "Cookie: a=b",
    ),
    *(
        "no colon",
        ": no name",
        "a" * 70_000 + ": b",
        "x: " + "b" * 70_000,
        "anthropic-version: 1",
        "anthropic-beta: x",
    ),
)
_FRAMING: Final = ("content-length", "transfer-encoding", "upgrade", "expect", "connection")


class HttpRequest(NamedTuple):
    """The bytes to send."""

    content: bytes
    is_whole: bool
    """Whether it is HTTP, so that there has to be an answer."""
    leaves: bool
    """Whether the client closes the connection at once."""

    @property
    def path(self) -> str:
        """The path, as it came out."""
        words = self.content.partition(b"\r\n")[0].decode("latin-1").split(" ")
        return words[1 % len(words)].partition("?")[0]


class HttpRequests:
    """Makes requests of all routes of a gateway."""

    def __init__(self, routes: Sequence[Shape]) -> None:
        self._routes = routes
        self._shares = [each.share for each in routes]

    def make(self, random: Random) -> HttpRequest:
        """A request that is wrong somewhere, most of the time."""
        (route,) = random.choices(self._routes, self._shares)
        body = self._body(route, random)
        head = self._head(route, random)
        more = [random.choice(_HEADERS) for _ in range(random.choice((0, 0, 0, 1, 2)))]
        is_whole = not any(line.lower().startswith(_FRAMING) for line in more) and all(
            ": " in line for line in more
        )
        lines = [head, *more, "Host: 127.0.0.1", "Connection: close"]
        lines += [f"Content-Length: {len(body)}"] if body or random.random() < 0.5 else []
        content = "\r\n".join((*lines, "", "")).encode("latin-1", "replace") + body
        if random.random() < 0.04:
            is_whole, content = False, mutated_bytes(content, random)
        return HttpRequest(content, is_whole and _is_plain(head), random.random() < 0.03)

    def _body(self, route: Shape, random: Random) -> bytes:
        if route.body is None:
            return b"" if random.random() < 0.9 else encoded(junk(random), random, broken=0.5)
        document = route.body(random)
        if random.random() < 0.7:
            document = mutated_document(document, random)
        if isinstance(document, dict) and "model" in document and random.random() < 0.6:
            document.setdefault("max_tokens", 2)
        return encoded(document, random, broken=0.12)

    def _head(self, route: Shape, random: Random) -> str:
        method, path = route.method, route.path(random)
        if route.query is not None:
            path += _query(route.query(random), random)
        if random.random() < 0.03:
            method = random.choice(_METHODS)
        if random.random() < 0.03:
            path += random.choice(
                ("/", "//", "/x", "?a=b&a=%ff", "?" + "x" * 3000, "%2e%2e/", "%00", "#x", " x")
            )
        return f"{method} {path} HTTP/1.1"


def _query(parameters: Any, random: Random) -> str:
    """The parameters of an address, now and then wrong."""
    if random.random() < 0.5:
        parameters = mutated_document(parameters, random)
    if not isinstance(parameters, dict):
        return f"?{quote(json.dumps(parameters))}"[:5000]
    sent = [
        (name, value if isinstance(value, str) else json.dumps(value)) for name, value in parameters.items()
    ]
    return f"?{urlencode([each for each in sent if each[1] != 'null'], errors='replace')}"[:5000]


def _is_plain(head: str) -> bool:
    return len(head.split(" ")) == 3 and head.partition(" ")[0] in _METHODS[:7]


class HttpSender:
    """Sends requests, and says what came of them."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._gateway = gateway

    async def check(self, request: HttpRequest) -> str:
        """The outcome as a status. Raises AssertionError for an answer that there must not be."""
        reader, writer = await asyncio.open_connection(self._gateway.host, self._gateway.port, limit=1 << 24)
        try:
            writer.write(request.content)
            if request.leaves:
                return "left"
            if not request.is_whole:
                writer.write_eof()
            answer = await (_beginning(reader) if request.path.startswith(ENDLESS) else reader.read(-1))
        except ConnectionError:
            assert not request.is_whole, "the connection was closed without an answer"
            return "closed"
        finally:
            writer.close()
        return self._outcome(request, answer)

    def _outcome(self, request: HttpRequest, answer: bytes) -> str:
        if not answer:
            assert not request.is_whole, "there was no answer"
            return "closed"
        method = request.content.partition(b" ")[0].decode("latin-1")
        try:
            response = HTTPResponse(_Answer(answer), method=method)  # type: ignore[arg-type]  # all that it uses
            response.begin()
            if request.path.startswith(ENDLESS):
                return str(response.status)
            body = response.read()
        except HTTPException as error:
            assert not request.is_whole, f"{error!r}: {answer[:2000]!r}"
            return "broken off"
        is_drain = request.path == "/ui/do/drain_node"  # which may be asked to wait for too short a time
        assert response.status not in _UNLIKELY or (is_drain and response.status == 504), (
            response.status,
            body[:2000],
        )
        assert not any(bug in body for bug in _BUGS), (response.status, body[-2000:])
        if response.getheader("content-type") == "application/json" and body:
            json.loads(body)
        return str(response.status)


async def _beginning(reader: asyncio.StreamReader) -> bytes:
    """The head of an answer, and the first that follows."""
    try:
        return await reader.readuntil(b"\r\n\r\n") + await reader.read(1)
    except asyncio.IncompleteReadError as error:
        return error.partial


class _Answer:
    """Looks like a socket to HTTPResponse."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, _mode: str) -> BinaryIO:
        return BytesIO(self._content)


@asynccontextmanager
async def routes(service: FuzzedService) -> AsyncIterator[Target[HttpRequest]]:
    """Requests to a gateway before a node."""
    yield Target(
        name="routes",
        make=HttpRequests(shapes(service.gateway.get("/openapi.json").document, service.hints)).make,
        check=HttpSender(service.gateway).check,
        written=lambda request: request.content,
        seconds=2 * SECONDS,
        at_once=AT_ONCE,
        afterwards=service.check,
        processes=service.processes,
        kind=_kind,
    )


def _kind(request: HttpRequest) -> str:
    """The path without what a client chose in it."""
    return "/".join(request.path.split("/")[:3])[:60]
