"""A connection of the gateway: uvicorn's HTTP/1.1 on httptools, with limits on what it takes and waits for.

uvicorn waits for ever for the rest of a request, and keeps headers of any size. Here a connection ends when a
request does not come in time or is too large, and there are only so many. What a proxy could understand
otherwise than this server is refused: httptools (llhttp, strict) refuses two lengths, folded headers and bad
chunks; here it is a missing or second ``Host``, and the fields after a body are left out (RFC 9112).

A client is read from as long as its answer is made, so that its end shows. So no request is kept that comes
behind an unfinished one: the connection ends with the first answer, and the client sends the other again.
"""

from __future__ import annotations

import asyncio
import resource
from http import HTTPStatus
from typing import Any, Final, Literal, NamedTuple, NoReturn, TypeAlias

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from suite.errors import InvalidRequest, Overloaded, SlowRequest, SuiteError, TooLarge
from suite.gateway.errors import error_response

Phase: TypeAlias = Literal["idle", "head", "body"]
"""What of a request comes next: nothing has begun to come, its headers, its body."""

_FRAMING: Final = 2
"""How many times as large as a body its chunks may be, before it is not the body any more that is large."""
_LINGER_SECONDS: Final = 5.0
"""How long what a client still sends is thrown away, so that it reads the answer before it is cut off."""
_UNCLEAR: Final = InvalidRequest("this is no request of HTTP/1.1, or one that can be read in two ways")
_OWN_FILES: Final = 128
"""How many open files the process needs beside connections."""


class Limits(NamedTuple):
    """What connections may cost."""

    body_bytes: int
    connections: int = 4096
    head_bytes: int = 64 << 10
    """Beside what comes with the first bytes of a request."""
    head_seconds: float = 15.0
    """From the first byte of a request, or from the connection, until all of its headers are there."""
    body_seconds: float = 120.0
    unread_seconds: float = 60.0
    """How long a client may take to read what is in the buffers, before the connection is cut off."""


def room_for_connections(wanted: int) -> int:
    """How many connections there can be: the process is given as many open files as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted + _OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < files:
        soft = files if hard == resource.RLIM_INFINITY else min(files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _OWN_FILES))


class GuardedConnection(HttpToolsProtocol):
    """One connection. Give uvicorn a ``functools.partial`` of it with the limits."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._phase: Phase = "idle"
        self._phase_bytes = 0
        self._requests = 0
        self._body_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._unread_deadline: asyncio.TimerHandle | None = None
        self._is_last = False
        """Whether the request that is answered is the last one, and nothing that comes is read any more."""
        self._found: SuiteError | None = None

    # --- the connection -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, or close at once what is one connection too many."""
        super().connection_made(_Lingering(transport, self, self._limits.unread_seconds))  # type: ignore[arg-type]
        if len(self.connections) > self._limits.connections:
            self._refuse(Overloaded("too many connections: close those that you do not use, and try again"))
        else:
            self._expect("idle", self._limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_waiting()
        self._unset_keepalive_if_required()
        self.resume_writing()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """Tell the request that its client is gone: what is still to be sent may hold the connection up."""
        self._disconnect()

    def pause_writing(self) -> None:
        """Have the answer wait for its client to read, but not for ever."""
        super().pause_writing()
        self._unread_deadline = self.loop.call_later(self._limits.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with the answer."""
        super().resume_writing()
        if self._unread_deadline is not None:
            self._unread_deadline.cancel()
            self._unread_deadline = None

    def data_received(self, data: bytes) -> None:
        """Take what came, if it is not too much."""
        if self.transport.is_closing() or self._is_last:
            return
        if self._phase == "idle" and self._deadline is None:
            self._expect("idle", self._limits.head_seconds)
        phase, requests = self._phase, self._requests
        super().data_received(data)
        if self._phase == phase and self._requests == requests:  # not a whole request at once
            self._phase_bytes += len(data)
            if self._phase_bytes > self._most_bytes and not self.transport.is_closing():
                self._refuse(_too_large(phase, self._limits))

    @property
    def _most_bytes(self) -> int:
        return self._limits.body_bytes * _FRAMING if self._phase == "body" else self._limits.head_bytes

    # --- what the parser finds ----------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins: its headers have to come in time."""
        if self._is_answering:
            self._is_last, self.cycle.keep_alive = True, False
            self._stop_waiting()
            raise _UNCLEAR.copy()  # has the parser stop
        self._requests += 1
        self._expect("head", self._limits.head_seconds)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, unless it comes after the body: nobody has checked those."""
        if self._phase == "head":
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer. Its body has to come in time, too."""
        self._check_head()
        super().on_headers_complete()
        self._expect("body", self._limits.body_seconds)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body, if all of them are not too large."""
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.body_bytes:
            self._fail(_too_large("body", self._limits))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole: nothing more is waited for."""
        self._stop_waiting()
        self._phase, self._phase_bytes = "idle", 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser has refused, or what was found while it parsed."""
        del msg
        if not self._is_last:
            self._refuse(self._found or _UNCLEAR.copy())

    def _check_head(self) -> None:
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            self._fail(InvalidRequest(f"the request has {hosts} Host headers: send one"))
        for name, value in self.headers:
            if name == b"content-length" and int(value) > self._limits.body_bytes:
                self._fail(_too_large("body", self._limits))
        self._body_bytes = 0

    def _fail(self, error: SuiteError) -> NoReturn:
        """Have the parser stop, and the request be refused."""
        self._found = error
        raise error

    # --- time ---------------------------------------------------------------------------------------------

    def _expect(self, phase: Phase, seconds: float) -> None:
        self._stop_waiting()
        if phase != self._phase:
            self._phase, self._phase_bytes = phase, 0
        self._deadline = self.loop.call_later(seconds, self._give_up, seconds)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self, seconds: float) -> None:
        self._deadline = None
        if self._is_answering:
            self._expect(self._phase, seconds)
        elif self._phase != "idle" or self._phase_bytes:
            self._refuse(SlowRequest(f"the request is not whole after {seconds:g} s: send it without pauses"))
        else:
            self.transport.close()

    @property
    def _is_answering(self) -> bool:
        """Whether a request is whole, and its answer not."""
        return self._phase != "body" and self.cycle is not None and not self.cycle.response_complete

    # --- the end ------------------------------------------------------------------------------------------

    def _refuse(self, error: SuiteError) -> None:
        """Close the connection, and say why if no answer is on its way in which that would be read."""
        silent = self._is_answering or (self.cycle is not None and self._is_answered)
        if not silent and not self.transport.is_closing():
            self.transport.write(_response(error, self._path))
        self._disconnect()
        self.transport.close()

    def _disconnect(self) -> None:
        """Tell the request that is answered that nobody waits for it."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    @property
    def _path(self) -> str:
        """What the request asks for, as far as that is known: it decides how errors are written."""
        return "/" if self._phase == "idle" else self.url.decode("latin-1")

    @property
    def _is_answered(self) -> bool:
        return self._phase == "body" and self.cycle.response_started

    @property
    def is_amid_request(self) -> bool:
        """Whether the client is likely to send more, and to read only then."""
        return self._is_last or self._phase != "idle"


class _Lingering:
    """A transport that throws away for a moment what comes, if it is closed amid a request.

    If it closed at once, the system would cut the client off, which then might not read the answer. A client
    that does not read what is still to be sent is cut off after `unread_seconds`.
    """

    def __init__(
        self, transport: asyncio.Transport, connection: GuardedConnection, unread_seconds: float
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._unread_seconds = unread_seconds
        self._closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing() or not self._connection.is_amid_request:
            self._finish()
            return
        self._closing = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._transport.resume_reading()
        self._connection.loop.call_later(_LINGER_SECONDS, self._finish)

    def _finish(self) -> None:
        if not self._transport.is_closing() and self._transport.get_write_buffer_size():
            self._connection.loop.call_later(self._unread_seconds, self._transport.abort)
        self._transport.close()


def _too_large(phase: Phase, limits: Limits) -> SuiteError:
    if phase == "body":
        return TooLarge(
            f"the body is over {limits.body_bytes} bytes: send less, or raise http.max_body_mb of the gateway"
        )
    return HeadTooLarge(f"the headers are over {limits.head_bytes} bytes: send less")


class HeadTooLarge(TooLarge):
    """The headers of the request are too large: send less."""

    status = 431


def _response(error: SuiteError, path: str) -> bytes:
    """An answer without a request."""
    answer = error_response(error, path if path.startswith("/") else "/")
    headers = [*answer.raw_headers, (b"connection", b"close")]
    lines = b"".join(b"%b: %b\r\n" % each for each in dict(headers).items())
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (
        answer.status_code,
        HTTPStatus(answer.status_code).phrase.encode(),
        lines,
        bytes(answer.body),
    )
