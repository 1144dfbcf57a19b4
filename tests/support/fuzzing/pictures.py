"""Pictures of the web: where they are, what web servers answer, and the files that come, all mutated."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from suite.domain.web_hosts import WebAddress, WebHosts
from suite.engine.pictures.image import MOST_SIDE, read
from suite.errors import SuiteError
from suite.node.pictures.http_answer import HttpAnswer
from support.fuzzing.hints import some_picture
from support.fuzzing.mutation import mutated_bytes, mutated_text
from support.fuzzing.run import Target, bounded
from support.fuzzing.web import ELSEWHERE, answer_of
from support.pictures import in_base64

SECONDS: Final = 10.0
_URLS: Final = (
    "https://images.example.org/a/cat.png?size=2&token=x#top",
    "http://images.example.org:8080/%e2%82%ac/%2e%2e/x",
    "http://[2001:db8::1]:80/",
    "https://192.0.2.7/x;y",
    "https://bücher.example/ä?ö",
    *ELSEWHERE,
)
_WORDS: Final = (
    *(
        "//",
        "/",
        "\\",
        "@",
        ":",
        "#",
        "?",
        "..",
        "%",
        "%00",
        "[",
        "]",
        ".",
        "\t",
        "http:",
        "https://",
        ":0",
        ":65536",
    ),
    *(
        "127.0.0.1",
        "0x7f.1",
        "2130706433",
        "::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "localhost",
        "xn--",
        "\uff45",
        "\u3002",
    ),
)
_HOSTS: Final = WebHosts.of(["*", "*.example.org:8080", "box.example", "10.0.0.7"])
_ADDRESSES: Final = tuple(map(ip_address, ("127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "fe80::1")))
"""Those that a host of strangers must not mean."""


class WebPicture(NamedTuple):
    """A picture as a stranger has it."""

    url: str
    location: str
    """Where the answer leads."""
    pieces: Sequence[bytes]
    """The answer as it comes."""
    file: bytes


def make_picture(random: Random) -> WebPicture:
    """A picture of which most things are wrong somewhere."""
    url, location = (mutated_text(random.choice(_URLS), random, _WORDS) for _ in range(2))
    sent = answer_of(str(random.randrange(10**9)))
    whole = sent if isinstance(sent, bytes) else b"".join(each for each in sent if isinstance(each, bytes))
    if random.random() < 0.5:
        whole = mutated_bytes(whole, random)
    cuts = sorted(random.randrange(len(whole) + 1) for _ in range(random.choice((0, 1, 2, 9))))
    pieces = [whole[at:end] for at, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return WebPicture(url, location, pieces, some_picture(random))


@contextmanager
def pictures(directory: Path) -> Iterator[Target[WebPicture]]:
    """Addresses, answers and files."""
    del directory

    async def check(picture: WebPicture) -> str:
        with bounded(SECONDS):
            found = _address(picture), _answer(picture.pieces), _file(picture.file)
        return ", ".join(found)

    yield Target(name="pictures", make=make_picture, check=check, written=_written)


def _address(picture: WebPicture) -> str:
    """Whether it may be fetched. Raises AssertionError for an address that means several things."""
    try:
        address = WebAddress.of(picture.url)
    except ValueError:
        return "no address"
    _check_address(address)
    try:
        then = address.redirected(picture.location)
    except ValueError:
        return "leads nowhere"
    _check_address(then)
    assert (address.scheme, then.scheme) != ("https", "http")
    return "leads on"


def _check_address(address: WebAddress) -> None:
    sent = f"GET {address.target} HTTP/1.1\r\nHost: {address.authority}\r\n"
    assert sent.isascii() and len(sent.split()) == 5 and sent.count("\r\n") == 2, sent
    assert address.target.startswith("/") and "#" not in address.target
    assert WebAddress.of(address.origin + address.target) == address
    rule = _HOSTS.rule(address)
    if rule is not None and not rule.is_exact:
        assert not any(map(rule.lets_connect, _ADDRESSES)), rule


def _answer(pieces: Sequence[bytes]) -> str:
    """What comes of an answer. Raises AssertionError if that depends on how it is cut."""
    whole, cut = _fed([b"".join(pieces)]), _fed(pieces)
    if whole is None or cut is None:
        return "no answer"
    assert whole == cut, "another answer in other pieces"
    return f"status {whole[0]}"


def _fed(pieces: Sequence[bytes]) -> tuple[int, bytes] | None:
    answer = HttpAnswer()
    try:
        for piece in pieces:
            if not answer.is_whole:
                answer.feed(piece)
        if not answer.is_whole:
            answer.end()
    except ValueError:
        return None
    return answer.status, bytes(answer.body)


def _file(data: bytes) -> str:
    try:
        image = read(data)
    except SuiteError as error:
        assert error.code in ("invalid_picture", "picture_too_large"), error
        error.message.encode()
        return error.code
    assert max(image.width, image.height) <= MOST_SIDE
    assert len(image.rgb) == 3 * image.width * image.height
    return "a picture"


def _written(picture: WebPicture) -> bytes:
    pieces = [in_base64(each) for each in picture.pieces]
    kept = {**picture._asdict(), "pieces": pieces, "file": in_base64(picture.file)}
    return json.dumps(kept, indent=1).encode()
