"""ZeroMQ sockets: bound to the configured port or refused with advice, and always closed at the end.

    async with opened_sockets() as sockets:
        requests, port = await sockets.bind_router("127.0.0.1", 7011, setting="legacy.port")

ZeroMQ is an optional extra, so it is imported only when the first socket is needed.
"""

from __future__ import annotations

import errno
import logging
import os
import socket as os_socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from suite.errors import InvalidConfiguration, PortTaken
from suite.extras import require
from suite.tasks import background

if TYPE_CHECKING:
    import zmq.asyncio

    Socket: TypeAlias = zmq.asyncio.Socket

log = logging.getLogger("suite.legacy")

LINGER_MS = 250
"""How long a closed socket may go on sending its queued messages."""
CLOSE_SECONDS = 1.0
FRAME_LIMIT = 16 * 2**20
"""The largest frame, in bytes. If a client sends a larger one, ZeroMQ closes the connection before it
allocates the memory. A smaller one that is still too large for a request gets an error reply."""
CONNECTION_LIMIT = 128
"""The most connections on each port. Together with FRAME_LIMIT it bounds the memory for messages that never
end."""
HANDSHAKE_MS = 5_000
"""A client that has not completed the ZeroMQ handshake after this time is disconnected."""


class Sockets:
    """Creates sockets, and limits the number of connections to each."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        tasks: TaskGroup,
        opened: list[Socket],
        *,
        connection_limit: int,
    ) -> None:
        self._context = context
        self._tasks = tasks
        self._open = opened
        self._connection_limit = connection_limit

    async def bind_router(self, host: str, port: int, *, setting: str) -> tuple[Socket, int]:
        """Bind a socket for REQ and DEALER clients, and return it with its port. Port 0 picks a free port.

        Raises PortTaken, or InvalidConfiguration if the host is not an address of this machine. ``setting``
        is the name of the setting that the error message mentions.
        """
        import zmq

        socket = self._socket(zmq.ROUTER)
        socket.setsockopt(zmq.MAXMSGSIZE, FRAME_LIMIT)
        # Accept a client that reconnects under its old identity while its old connection still looks alive.
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        return socket, await self._bind(socket, host, port, setting)

    async def bind_pub(self, host: str, port: int, *, setting: str) -> tuple[Socket, int]:
        """Bind a socket for publishing, and return it with its port. Raises the errors of bind_router."""
        import zmq

        socket = self._socket(zmq.PUB)
        socket.setsockopt(zmq.MAXMSGSIZE, FRAME_LIMIT)
        return socket, await self._bind(socket, host, port, setting)

    def connect_pub(self, address: str, *, setting: str) -> Socket:
        """Connect a publishing socket to a subscriber that is bound to an address like ``tcp://host:7150``.

        The subscriber need not exist yet. Raises InvalidConfiguration if the address is invalid.
        """
        import zmq

        socket = self._socket(zmq.PUB)
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            raise InvalidConfiguration(
                f"{setting} is {address!r}, which cannot be connected to ({error.strerror}): "
                "give an address like tcp://host:7150"
            ) from None
        return socket

    async def _bind(self, socket: Socket, host: str, port: int, setting: str) -> int:
        import zmq

        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        # The monitor starts before anybody can connect; otherwise some connections would not be counted.
        monitor = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._open.append(monitor)
        bound = await _bind(socket, host, port, setting)
        self._tasks.start_soon(_limit_connections, monitor, bound, self._connection_limit)
        return bound

    def _socket(self, kind: int) -> Socket:
        socket = self._context.socket(kind)
        self._open.append(socket)
        return socket


@asynccontextmanager
async def opened_sockets(*, connection_limit: int = CONNECTION_LIMIT) -> AsyncIterator[Sockets]:
    """Open sockets that are closed when the block is left.

    Each port accepts up to ``connection_limit`` connections. Raises NotInstalled if ZeroMQ is not.
    """
    require("zmq", "enable_backward_compatibility")
    import zmq.asyncio

    context = zmq.asyncio.Context()
    opened: list[Socket] = []
    try:
        async with background() as tasks:
            yield Sockets(context, tasks, opened, connection_limit=connection_limit)
    finally:
        for socket in opened:  # queued messages may take ``LINGER_MS`` more
            socket.close(linger=LINGER_MS)
        await _term(context)


async def _term(context: zmq.asyncio.Context) -> None:
    # Termination waits for lingering messages. A node that stops must not depend on ZeroMQ terminating.
    with anyio.move_on_after(CLOSE_SECONDS, shield=True) as closing:
        await anyio.to_thread.run_sync(context.term, abandon_on_cancel=True)
    if closing.cancelled_caught:
        log.warning("ZeroMQ did not end within %g s: left to the end of the process", CLOSE_SECONDS)


async def _limit_connections(monitor: Socket, port: int, limit: int) -> NoReturn:
    """Close each connection to a port above the limit. ZeroMQ itself accepts any number."""
    import zmq
    from zmq.utils.monitor import recv_monitor_message

    connected: set[int] = set()
    is_full = False
    while True:
        event = await recv_monitor_message(monitor)
        if event["event"] == zmq.EVENT_DISCONNECTED:
            connected.discard(event["value"])
        else:
            connected.add(event["value"])
            if len(connected) > limit:
                _hang_up(event["value"], port)
                if not is_full:
                    log.warning("port %d has %d connections of older clients: more are refused", port, limit)
        is_full = len(connected) >= limit


def _hang_up(descriptor: int, port: int) -> None:
    """Shut down the connection of this descriptor. ZeroMQ then closes it, or may have closed it already."""
    with suppress(OSError), os_socket.socket(fileno=os.dup(descriptor)) as peer:
        if peer.getsockname()[1] == port:  # otherwise the descriptor was reused
            peer.shutdown(os_socket.SHUT_RDWR)


async def _bind(socket: Socket, host: str, port: int, setting: str) -> int:
    import zmq

    numeric = await _numeric(host, setting)
    if ":" in numeric:
        socket.setsockopt(zmq.IPV6, 1)
        numeric = f"[{numeric}]"
    try:
        socket.bind(f"tcp://{numeric}:{port}")
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"port {port} on {host} is in use: stop what listens there, or set {setting} to another"
            ) from None
        raise InvalidConfiguration(
            f"port {port} on {host} cannot be listened to ({error.strerror}): change legacy.host or {setting}"
        ) from None
    bound: str = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return int(bound.rpartition(":")[2])


async def _numeric(host: str, setting: str) -> str:
    """The numeric address of a host name. ZeroMQ does not resolve host names when it binds."""
    if host == "*":
        return host
    try:
        found = await anyio.getaddrinfo(host, None, type=os_socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidConfiguration(
            f"{host!r} is no host to listen on for {setting} ({error.strerror}): change legacy.host"
        ) from None
    return str(found[0][4][0])
