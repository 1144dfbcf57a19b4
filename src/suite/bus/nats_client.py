"""nats-py's client for a single connection, changed so that it neither hangs nor outlives the connection."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Callable

import anyio
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol import parser

from suite.bus.wire import received_headers
from suite.messages.actor import NatsAccess

log = logging.getLogger("suite.bus")

CLOSE_SECONDS = 2.0
PING_SECONDS = 20
"""Seconds between pings. A peer that misses two in a row counts as lost."""
PENDING_LIMIT = 2 * 1024 * 1024
"""How many bytes may wait to be written before a sender has to wait."""
ROOM_SECONDS = 5.0


# nats-py's patterns end a word at any whitespace (\s). In the protocol, and so in the server, only a space or
# a tab ends it. With nats-py's patterns a vertical tab in a subject would be a protocol error, which ends the
# connection.
_WORD = rb"([^ \t\r\n]+)[ \t]+"
parser.MSG_RE = re.compile(rb"\AMSG[ \t]+" + _WORD + _WORD + rb"(" + _WORD + rb")?(\d+)\r\n")
parser.HMSG_RE = re.compile(rb"\AHMSG[ \t]+" + _WORD + _WORD + rb"(" + _WORD + rb")?(\d+)[ \t]+(\d+)\r\n")


class NatsClient(Client):
    """A client that never reconnects: nats-py would then send unsent messages late."""

    failure: Exception | None = None
    """The last error."""

    async def reach(
        self, access: NatsAccess, *, name: str, timeout: float, on_error: Callable[[Exception], None]
    ) -> None:
        """Connect, within ``timeout`` seconds a step. Raises OSError, TimeoutError or nats-py's errors."""

        async def tell(error: Exception) -> None:
            self.failure = error
            on_error(error)

        await self.connect(
            servers=access.url.split(","),
            name=name,
            user=access.user,
            password=access.password,
            user_credentials=access.credentials_file,
            tls=None if access.ca_file is None else ssl.create_default_context(cafile=access.ca_file),
            inbox_prefix=access.inbox_prefix,
            error_cb=tell,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=timeout,  # type: ignore[arg-type]  # any number of seconds will do
            ping_interval=PING_SECONDS,
            pending_size=0,
        )
        self._tell_protocol_of_tls()

    def _tell_protocol_of_tls(self) -> None:
        # nats-py begins TLS on asyncio's protocol of a plain connection, which then warns at each end of one.
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None and writer.get_extra_info("ssl_object") is not None:
            writer.transport.get_protocol()._over_ssl = True

    @property
    def was_greeted(self) -> bool:
        """Whether a NATS server has answered, whatever came of it."""
        return bool(self._server_info)

    @property
    def is_usable(self) -> bool:
        """Whether messages can be sent now."""
        return self._status == Client.CONNECTED

    @property
    def is_full(self) -> bool:
        """Whether a sender has to wait for room in the send buffer."""
        return self._pending_data_size >= PENDING_LIMIT

    def write(self, frame: bytes) -> None:
        """Queue a frame behind everything written before."""
        assert self._flush_queue is not None
        self._pending.append(frame)
        self._pending_data_size += len(frame)
        if self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    async def room(self) -> None:
        """Wait until the send buffer has room. Raises TimeoutError if the peer does not read.

        nats-py's own wait swallows cancellation, so a sender in a loop could not be stopped.
        """
        assert self._flush_queue is not None
        written: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        await self._flush_queue.put(written)
        with anyio.fail_after(ROOM_SECONDS):
            await written

    async def lost(self) -> None:
        """Wait until the reading task ends: that happens in every way of losing a connection."""
        assert self._reading_task is not None
        await asyncio.wait({self._reading_task})
        if not self._reading_task.cancelled() and (error := self._reading_task.exception()):
            log.debug("the reader ended with %r", error)

    async def discard(self) -> None:
        """Close, without hanging on a peer that no longer reads."""
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await self.close()
        self.abort()

    def abort(self) -> None:
        """Drop the connection and everything that is still to be sent."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    # Whoever may publish chooses subject, reply and headers, and the server forwards their bytes unchanged.
    # On bytes that are not UTF-8, or not a header, nats-py fails and stops reading from the connection.

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        return received_headers(headers) if headers else None

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        return Msg(
            subject=subject.decode(errors="backslashreplace"),
            reply=reply.decode(errors="backslashreplace"),
            data=data,
            headers=headers,
            _client=self,
            _sid=sid,
        )

    async def _send_ping(self, future: asyncio.Future[object] | None = None) -> None:
        # nats-py writes the ping ahead of pending messages, so a flush would prove nothing.
        if self._pending and self._transport is not None:
            self._transport.writelines(self._pending[:])
            self._pending.clear()
            self._pending_data_size = 0
        await super()._send_ping(future)

    async def _process_pong(self) -> None:
        # nats-py fails, and closes, when the answer to a cancelled or timed-out flush arrives.
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        # nats-py would write pending messages to the broken transport, fail there, and stop half-way. Callers
        # that wait for a flush would then wait for ever.
        self._pending.clear()
        self._pending_data_size = 0
        while self._flush_queue is not None and not self._flush_queue.empty():
            _settle(self._flush_queue.get_nowait())
        for pong in self._pongs:
            _settle(pong)
        await super()._close(status, do_cbs)


def _settle(future: asyncio.Future[object]) -> None:
    if not future.done():
        future.set_result(None)
