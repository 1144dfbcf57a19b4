"""Fetches files from web servers, from listed hosts only and under limits (ADR 79).

A name is resolved once, and the connection goes to one of the addresses that were looked at. What comes is
bytes: nothing here reads them as a picture. No proxy is used, no cookie is kept, and nothing that may be a
secret, a path or a query, stands in an error.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import cache, partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
import anyio.abc
import anyio.to_thread

from suite.domain.web_hosts import HostRule, IpAddress, WebAddress, WebHosts
from suite.engine.pictures.image import MOST_BYTES, too_many_bytes
from suite.errors import PictureNotAllowed, PictureUnreachable
from suite.version import __version__

if TYPE_CHECKING:
    from suite.node.pictures.http_answer import HttpAnswer

FETCH_SECONDS: Final = 30.0
"""How long a file may take, with all that leads to it."""
CONNECT_SECONDS: Final = 5.0
"""How long one of the addresses of a host may take to answer."""
MOST_ADDRESSES: Final = 4
"""So many addresses of a host are tried."""
MOST_REDIRECTS: Final = 3

_READ_BYTES: Final = 64 << 10
_OK: Final = 200
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[IpAddress]]]
"""Finds the addresses of a host. Raises OSError."""


async def resolved(host: str, port: int) -> Sequence[IpAddress]:
    """The addresses of a host, as this machine finds them. Raises OSError."""
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    # In a thread of its own: those of asyncio for names are few, and one may take long to say nothing.
    found = await anyio.to_thread.run_sync(look_up, abandon_on_cancel=True)
    return list(dict.fromkeys(ip_address(str(each[4][0]).partition("%")[0]) for each in found))


@cache
def _trusted() -> ssl.SSLContext:
    """Whom this machine trusts. Blocks, as it reads their certificates."""
    return ssl.create_default_context()


class WebFiles:
    """The files of the hosts that may be fetched from."""

    def __init__(
        self,
        hosts: WebHosts,
        *,
        resolve: Resolve = resolved,
        trusted: Callable[[], ssl.SSLContext] = _trusted,
        seconds: float = FETCH_SECONDS,
    ) -> None:
        """``trusted`` says which certificates of servers are right."""
        self._hosts = hosts
        self._resolve = resolve
        self._trusted = trusted
        self._seconds = seconds

    def rule(self, address: WebAddress) -> HostRule:
        """The rule by which an address may be fetched from. Raises PictureNotAllowed."""
        if (rule := self._hosts.rule(address)) is not None:
            return rule
        if not self._hosts.rules:
            raise PictureNotAllowed(
                "this service fetches no pictures: send the picture itself, as a data URL "
                "(data:image/png;base64,...); its operator can list hosts in pictures.fetch_from"
            )
        raise PictureNotAllowed(
            f"{address.origin} is not listed in pictures.fetch_from: send the picture itself, as a data URL "
            "(data:image/png;base64,...), or have its operator list the host"
        )

    async def fetch(self, address: WebAddress) -> bytes:
        """The file at an address. Raises PictureNotAllowed, PictureUnreachable and PictureTooLarge."""
        with anyio.move_on_after(self._seconds):
            return await self._followed(address)
        raise PictureUnreachable(f"{address.origin} did not send the picture within {self._seconds:g} s")

    async def _followed(self, address: WebAddress) -> bytes:
        """The file, wherever the answers lead."""
        for _ in range(MOST_REDIRECTS + 1):
            answer = await self._answer(address)
            if answer.status not in _REDIRECTS:
                return _checked(answer, address)
            try:
                address = address.redirected(answer.header("location"))
            except ValueError as error:
                raise PictureUnreachable(
                    f"{address.origin} redirects to a URL that is refused: {error}"
                ) from None
        raise PictureUnreachable(f"{address.origin} redirects for the {MOST_REDIRECTS + 1}th time")

    async def _answer(self, address: WebAddress) -> HttpAnswer:
        rule = self.rule(address)
        try:
            addresses = await self._resolve(address.host, address.port)
        except (OSError, UnicodeError):
            raise PictureUnreachable(f"the host of {address.origin} has no address") from None
        if not (allowed := [each for each in addresses if rule.lets_connect(each)]):
            raise PictureNotAllowed(
                f"the host of {address.origin} has no public address, and others are only fetched from if "
                "they are listed in pictures.fetch_from by their own name"
            )
        try:
            async with await self._connected(address, allowed[:MOST_ADDRESSES]) as stream:
                await stream.send(_request(address))
                return await _received(stream, address)
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            reason = _reason(error.__cause__ or error)
            raise PictureUnreachable(f"{address.origin} does not answer: {reason}") from None

    async def _connected(self, address: WebAddress, addresses: Sequence[IpAddress]) -> anyio.abc.ByteStream:
        """A connection to the first of these addresses that takes one. Raises OSError."""
        failure: OSError = TimeoutError("no connection in time")
        context = await anyio.to_thread.run_sync(self._trusted) if address.scheme == "https" else None
        for each in addresses:
            with anyio.move_on_after(CONNECT_SECONDS):
                try:
                    plain = await anyio.connect_tcp(str(each), address.port)
                    return plain if context is None else await _encrypted(plain, address.host, context)
                except OSError as error:
                    failure = error
        raise failure


async def _encrypted(
    plain: anyio.abc.SocketStream, host: str, context: ssl.SSLContext
) -> anyio.abc.ByteStream:
    """The connection under TLS, to whoever has a certificate for this host. Raises OSError."""
    from anyio.streams.tls import TLSStream

    try:
        return await TLSStream.wrap(
            plain, hostname=host, ssl_context=context, server_side=False, standard_compatible=False
        )
    except BaseException:
        await anyio.aclose_forcefully(plain)
        raise


def _request(address: WebAddress) -> bytes:
    head = (
        f"GET {address.target} HTTP/1.1",
        f"Host: {address.authority}",
        f"User-Agent: model-manager-suite/{__version__}",
        "Accept: image/*",
        "Accept-Encoding: identity",
        "Connection: close",
    )
    return "".join(f"{line}\r\n" for line in (*head, "")).encode("ascii")


async def _received(stream: anyio.abc.ByteStream, address: WebAddress) -> HttpAnswer:
    """The answer, to its end or as far as it is of use. Raises PictureUnreachable and PictureTooLarge."""
    from suite.node.pictures.http_answer import HttpAnswer  # a start need not wait for the parser

    answer = HttpAnswer()
    try:
        while not answer.is_whole and (answer.status in (0, _OK)):
            try:
                answer.feed(await stream.receive(_READ_BYTES))
            except anyio.EndOfStream:
                answer.end()
            if len(answer.body) > MOST_BYTES or answer.announced_bytes > MOST_BYTES:
                raise too_many_bytes(max(len(answer.body), answer.announced_bytes))
    except ValueError as error:
        raise PictureUnreachable(f"{address.origin} does not answer as web servers do: {error}") from None
    return answer


def _checked(answer: HttpAnswer, address: WebAddress) -> bytes:
    """The body of an answer that has the file. Raises PictureUnreachable."""
    if answer.status != _OK:
        raise PictureUnreachable(f"{address.origin} answered with {answer.status} instead of the picture")
    if answer.header("content-encoding") not in ("", "identity"):
        raise PictureUnreachable(f"{address.origin} sent the picture compressed, which it was not asked for")
    return bytes(answer.body)


def _reason(error: BaseException) -> str:
    """Why there is no answer, in words that say nothing of addresses."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is refused, {error.verify_message}"
        case ssl.SSLError():
            return "it does not speak TLS as it should"
        case TimeoutError():
            return "it takes no connection in time"
        case ConnectionRefusedError():
            return "it takes no connections"
        case _:
            return "the connection broke"
