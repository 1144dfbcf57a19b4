"""A web server that means harm. What it answers follows from the number in the path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Final

from support.fuzzing.mutation import TEXTS, mutated_bytes
from support.pictures import picture
from support.web import Answer, found, head, web

_BODY: Final = picture((0, 200, 0))
ELSEWHERE: Final = (
    *(
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://0/",
        "//0.0.0.0/",
    ),
    *(
        "http://127.0.0.1:1/",
        "http://localhost/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "https://",
        "?",
        "",
    ),
    *("http://user:secret@127.0.0.1/", "http://127.0.0.1:99999/", "http://[fe80::1%25lo]/", "http://127.1/"),
)
"""Where a redirect must not lead to."""


class HostileWeb:
    """The addresses that it has."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def hosts(self) -> str:
        """Those that a service has to be told it may fetch from."""
        return f"127.0.0.1:{self.port},localhost:{self.port}"

    def url(self, random: Random) -> str:
        """The URL of a picture there, or of one elsewhere."""
        if random.random() < 0.15:
            return random.choice((*ELSEWHERE, *TEXTS[:8]))
        host = random.choice(("127.0.0.1", "127.0.0.1", "localhost", "127.0.0.1.", "LOCALHOST"))
        return f"http://{host}:{self.port}/{random.randrange(100_000)}"


@asynccontextmanager
async def hostile_web() -> AsyncIterator[HostileWeb]:
    """A server on loopback, until the block ends."""
    async with web({}, otherwise=answer_of) as site:
        yield HostileWeb(site.port)


def answer_of(path: str) -> Answer:
    """What is sent for a path: the same each time."""
    random = Random(path)
    return random.choice(_ANSWERS)(random)


def _right(_random: Random) -> Answer:
    return found(_BODY)


def _damaged(random: Random) -> Answer:
    return found(mutated_bytes(_BODY, random))


def _no_http(random: Random) -> Answer:
    return mutated_bytes(found(_BODY), random)


def _chunks(random: Random) -> Answer:
    sent = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in (_BODY[:9], _BODY[9:]))
    whole = head(200, "transfer-encoding: chunked") + sent + b"0\r\n\r\n"
    return random.choice((whole, mutated_bytes(whole, random), whole[: random.randrange(len(whole))]))


def _redirect(random: Random) -> Answer:
    status = random.choice((301, 302, 303, 307, 308, 300, 304, 399))
    where = random.choice((*ELSEWHERE, *(f"/{random.randrange(100)}" for _ in range(20)), TEXTS[6]))
    return head(status, f"location: {where}", "content-length: 0")


def _other_status(random: Random) -> Answer:
    return head(random.choice((100, 101, 204, 206, 404, 500, 999)), "content-length: 3") + b"abc"


def _packed(random: Random) -> Answer:
    return found(_BODY, f"content-encoding: {random.choice(('gzip', 'br', 'identity', 'x' * 9000))}")


def _too_much(random: Random) -> Answer:
    said = random.choice((1 << 40, (20 << 20) + 1, -1, 10**30))
    return head(200, f"content-length: {said}") + _BODY


def _slow(random: Random) -> Answer:
    whole = found(_BODY)
    at = random.randrange(len(whole))
    return [whole[:at], 0.2, whole[at : at + 1], 0.2, whole[at + 1 :]]


def _long_head(random: Random) -> Answer:
    lines = ["x: " + "a" * random.choice((100, 60_000, 70_000))] * random.choice((1, 2, 200))
    return head(200, *lines, f"content-length: {len(_BODY)}") + _BODY


def _nothing(_random: Random) -> Answer:
    return b""


_ANSWERS: Final[tuple[Callable[[Random], Answer], ...]] = (
    *(_right, _right, _right, _damaged, _no_http, _chunks, _redirect, _redirect),
    *(_other_status, _packed, _too_much, _slow, _long_head, _nothing),
)
