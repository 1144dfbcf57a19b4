"""Files of the web: fetched from who is listed, at the address that was looked at, and not for ever."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.domain.web_hosts import IpAddress, WebAddress, WebHosts
from suite.engine.pictures.image import MOST_BYTES
from suite.errors import PictureNotAllowed, PictureTooLarge, PictureUnreachable
from suite.node.pictures.http_answer import MOST_HEAD_BYTES, HttpAnswer
from suite.node.pictures.web_files import WebFiles
from support.web import Answer, Web, found, head, web

BODY = bytes(range(256)) * 300
LOOPBACK = ip_address("127.0.0.1")
CERTIFICATES = Path(__file__).parents[1] / "gateway" / "certificates"


class Names:
    """Says at which addresses hosts are, and counts who asked."""

    def __init__(self, *addresses: str) -> None:
        self.asked: list[str] = []
        self._addresses = list(map(ip_address, addresses))

    async def resolve(self, host: str, _port: int) -> Sequence[IpAddress]:
        self.asked.append(host)
        if not self._addresses:
            raise OSError("no such host")
        return self._addresses


async def fetched(site: Web, path: str, *hosts: str, seconds: float = 20.0) -> bytes:
    files = WebFiles(WebHosts.of([f"127.0.0.1:{site.port}", *hosts]), seconds=seconds)
    return await files.fetch(WebAddress.of(site.url(path)))


def chunked(body: bytes) -> bytes:
    parts = [body[:5], body[5:]]
    sent = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in parts)
    return head(200, "transfer-encoding: chunked") + sent + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        found(BODY),
        found(BODY, "Content-Encoding: identity") + b"and more than was told",
        chunked(BODY),
        head(200) + BODY,
        head(103, "link: </a>") + head(200, f"content-length: {len(BODY)}") + BODY,
        [found(BODY)[:10], 0.01, found(BODY)[10:60], 0.01, found(BODY)[60:]],
    ],
    ids=["length", "identity", "chunked", "to the end", "after hints", "in pieces"],
)
async def test_a_file_comes_as_web_servers_send_it(answer: Answer) -> None:
    async with web({"/cat.png": answer}) as site:
        assert await fetched(site, "/cat.png?token=secret") == BODY
        (asked,) = site.asked
    lines = asked.decode().split("\r\n")
    assert lines[0] == "GET /cat.png?token=secret HTTP/1.1"
    assert f"Host: 127.0.0.1:{site.port}" in lines and "Accept-Encoding: identity" in lines
    assert not any(line.lower().startswith(("cookie", "authorization", "referer")) for line in lines)


BAD: dict[str, tuple[Answer, str]] = {
    "gone": (head(404, "content-length: 0"), "answered with 404"),
    "empty": (head(204), "answered with 204"),
    "cut": (head(200, "content-length: 9") + b"cut", "ended before the answer did"),
    "cut chunks": (head(200, "transfer-encoding: chunked") + b"5\r\nab", "ended before the answer did"),
    "silent": (b"", "ended before the answer did"),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", "that is no HTTP"),
    "a head without end": (b"HTTP/1.1 200 OK\r\na: " + b"x" * (MOST_HEAD_BYTES + 1), "its head has more"),
    "hints without end": (head(103) * 5000, "its head has more"),
    "trailers without end": (chunked(b"x" * 9)[:-2] + b"a: b\r\n" * 20_000, "besides its body has more"),
    "packed": (found(b"x", "content-encoding: gzip"), "sent the picture compressed"),
    "another protocol": (head(101, "upgrade: websocket", "connection: upgrade"), "that is no HTTP"),
    "two lengths": (head(200, "content-length: 1", "content-length: 2") + b"xx", "that is no HTTP"),
    "a length of no number": (head(200, "content-length: x") + b"xx", "that is no HTTP"),
}


@pytest.mark.parametrize(("answer", "words"), BAD.values(), ids=BAD)
async def test_what_is_no_answer_with_a_file_is_told_without_the_path(answer: Answer, words: str) -> None:
    async with web({"/cat.png": answer}) as site:
        with pytest.raises(PictureUnreachable, match=words) as failed:
            await fetched(site, "/cat.png?token=secret")
    assert f"http://127.0.0.1:{site.port} " in failed.value.message
    assert "secret" not in failed.value.message and "cat.png" not in failed.value.message


@pytest.mark.parametrize(
    "answer",
    [
        head(200, f"content-length: {MOST_BYTES + 1}"),
        [head(200), *[bytes(1 << 20)] * 22],
        [head(200, "transfer-encoding: chunked"), *[b"100000\r\n" + bytes(1 << 20) + b"\r\n"] * 22],
    ],
    ids=["announced", "without a length", "in chunks"],
)
async def test_no_more_than_a_picture_may_have_is_read(answer: Answer) -> None:
    async with web({"/large": answer}) as site:
        with pytest.raises(PictureTooLarge, match=f"and may have {MOST_BYTES}"):
            await fetched(site, "/large")


@pytest.mark.parametrize("answer", [[30.0], [head(200), *[b"x", 0.05] * 600]], ids=["silent", "slow"])
async def test_a_file_has_to_come_within_a_time(answer: Answer) -> None:
    async with web({"/slow": answer}) as site:
        with pytest.raises(PictureUnreachable, match=r"did not send the picture within 0\.3 s"):
            await fetched(site, "/slow", seconds=0.3)


async def test_where_an_answer_leads_has_to_be_listed_too() -> None:
    async with web({"/there": found(BODY)}) as other, web({}) as site:
        site.answers |= {
            "/here": head(302, "location: /found?a=b"),
            "/found": found(BODY),
            "/away": head(307, f"location: {other.url('/there')}"),
            "/loop": head(301, "location: /loop"),
            "/file": head(302, "location: file:///etc/passwd"),
            "/login": head(302, "location: http://a:b@127.0.0.1/"),
            "/nowhere": head(302),
        }
        assert await fetched(site, "/here") == BODY
        assert site.asked[-1].startswith(b"GET /found?a=b ")
        with pytest.raises(PictureNotAllowed, match=f"{other.port} is not listed in pictures.fetch_from"):
            await fetched(site, "/away")
        assert not other.asked
        assert await fetched(site, "/away", f"127.0.0.1:{other.port}") == BODY
        refused = {"/loop": "4th time", "/nowhere": "4th time", "/file": "neither", "/login": "password"}
        for path, words in refused.items():
            with pytest.raises(PictureUnreachable, match=words):
                await fetched(site, path)


async def test_an_address_that_only_a_name_leads_to_is_not_connected_to() -> None:
    async with web({"/": found(BODY)}) as site:
        address = WebAddress.of(site.url("/", host="rebound.example"))
        for entry in ("*", "*.example"):
            names = Names("127.0.0.1", "::1", "169.254.169.254", "10.0.0.1")
            files = WebFiles(WebHosts.of([f"{entry}:{site.port}"]), resolve=names.resolve)
            with pytest.raises(PictureNotAllowed, match="has no public address"):
                await files.fetch(address)
        assert not site.asked


async def test_a_name_is_resolved_once_and_that_address_is_connected_to() -> None:
    async with web({"/": found(BODY)}) as site:
        names = Names("169.254.169.254", "127.0.0.1")
        files = WebFiles(WebHosts.of([f"box.example:{site.port}"]), resolve=names.resolve)
        assert await files.fetch(WebAddress.of(site.url("/", host="box.example"))) == BODY
        assert names.asked == ["box.example"]
        assert f"Host: box.example:{site.port}".encode() in site.asked[0]
    with pytest.raises(PictureUnreachable, match="takes no connections"):
        await files.fetch(WebAddress.of(site.url("/", host="box.example")))
    nobody = WebFiles(WebHosts.of(["box.example"]), resolve=Names().resolve)
    with pytest.raises(PictureUnreachable, match=r"the host of http://box\.example has no address"):
        await nobody.fetch(WebAddress.of("http://box.example/"))


async def test_only_a_server_with_the_right_certificate_is_listened_to() -> None:
    own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    own.load_cert_chain(CERTIFICATES / "first.pem", CERTIFICATES / "first.key.pem")
    async with web({"/": found(BODY)}, tls=own) as site:
        names = Names("127.0.0.1")
        hosts = WebHosts.of([f"localhost:{site.port}", f"other.example:{site.port}"])
        trusting = WebFiles(
            hosts,
            resolve=names.resolve,
            trusted=lambda: ssl.create_default_context(cafile=CERTIFICATES / "first.pem"),
        )
        assert await trusting.fetch(WebAddress.of(site.url("/", host="localhost", scheme="https"))) == BODY
        with pytest.raises(PictureUnreachable, match="its certificate is refused"):
            await trusting.fetch(WebAddress.of(site.url("/", host="other.example", scheme="https")))
        with pytest.raises(PictureUnreachable, match="its certificate is refused"):
            await WebFiles(hosts, resolve=names.resolve).fetch(
                WebAddress.of(site.url("/", host="localhost", scheme="https"))
            )


async def test_without_listed_hosts_nothing_is_fetched_and_the_setting_is_named() -> None:
    with pytest.raises(PictureNotAllowed, match=r"fetches no pictures.*in pictures\.fetch_from"):
        await WebFiles(WebHosts()).fetch(WebAddress.of("https://example.org/cat.png"))


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from(
                [
                    b"HTTP/1.1 200 OK\r\n",
                    b"HTTP/1.0 301 \r\n",
                    b"HTTP/1.1 100 \r\n\r\n",
                    b"content-length: 3\r\n",
                    b"content-length: " + b"9" * 5000 + b"\r\n",
                    b"transfer-encoding: chunked\r\n",
                    b"location: /\r\n",
                    b"\r\n",
                    b"3\r\nabc\r\n",
                    b"0\r\n\r\n",
                    b"ffffffffffffffffff\r\n",
                ]
            ),
        ),
        max_size=12,
    )
)
def test_whatever_a_server_sends_is_an_answer_or_is_none(pieces: list[bytes]) -> None:
    answer = HttpAnswer()
    try:
        for piece in pieces:
            answer.feed(piece)
            assert answer.announced_bytes >= 0
        answer.end()
    except ValueError:
        return
    assert answer.is_whole and answer.status >= 200
