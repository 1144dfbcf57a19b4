"""ZeroMQ sockets: bound where they are told or refused with what to do, closed whatever happens.

    async with opened_sockets() as sockets:
        requests, port = await sockets.bind_router("127.0.0.1", 7011, setting="legacy.port")

ZeroMQ is an optional extra, so it is imported when the first socket is wanted and not before.
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
from suite.tasks import background

if TYPE_CHECKING:
    import zmq.asyncio

    Socket: TypeAlias = zmq.asyncio.Socket

log = logging.getLogger("suite.legacy")

LINGER_MS = 250
"""How long a closed socket may still send what it was given."""
CLOSE_SECONDS = 1.0
FRAME_LIMIT = 16 * 2**20
"""Bytes. ZeroMQ ends the connection of who sends more, before it takes the memory; up to there a reply says
that it is too much."""
CONNECTION_LIMIT = 128
"""On each port. With the limit of a frame it bounds the memory of messages that never come to an end."""
HANDSHAKE_MS = 5_000
"""After which who connects and does not speak ZeroMQ is hung up on."""


class Sockets:
    """Makes sockets, and sees to it that none has too many connections."""

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
        """A socket that REQ and DEALER clients talk to, and its port; for port 0 a free one is taken.

        Raises PortTaken, or InvalidConfiguration for a host that is none of this machine's; ``setting``
        is what their messages name.
        """
        import zmq

        socket = self._socket(zmq.ROUTER)
        socket.setsockopt(zmq.MAXMSGSIZE, FRAME_LIMIT)
        # A client that came back under its name is heard, though its old connection may not yet look dead.
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        return socket, await self._bind(socket, host, port, setting)

    async def bind_pub(self, host: str, port: int, *, setting: str) -> tuple[Socket, int]:
        """A socket to publish with, and its port. Raises as bind_router does."""
        import zmq

        socket = self._socket(zmq.PUB)
        socket.setsockopt(zmq.MAXMSGSIZE, FRAME_LIMIT)
        return socket, await self._bind(socket, host, port, setting)

    def connect_pub(self, address: str, *, setting: str) -> Socket:
        """A socket that publishes to who is bound to an address like ``tcp://host:7150``.

        Nobody need be there yet. Raises InvalidConfiguration for what is no address.
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
        # Watched before anybody can connect, or some would not be counted.
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
    """Sockets that are closed when the block is left; each port has so many connections at most.

    Raises InvalidConfiguration without ZeroMQ.
    """
    try:
        import zmq.asyncio
    except ImportError:
        raise InvalidConfiguration(
            "older clients speak ZeroMQ, which is not installed: install model-manager-suite[zmq], "
            "or switch enable_backward_compatibility off"
        ) from None
    context = zmq.asyncio.Context()
    opened: list[Socket] = []
    try:
        async with background() as tasks:
            yield Sockets(context, tasks, opened, connection_limit=connection_limit)
    finally:
        for socket in opened:  # what they were given to send may take ``LINGER_MS`` more
            socket.close(linger=LINGER_MS)
        await _term(context)


async def _term(context: zmq.asyncio.Context) -> None:
    # It waits for what lingers. A node that stops must not depend on ZeroMQ coming to its end.
    with anyio.move_on_after(CLOSE_SECONDS, shield=True) as closing:
        await anyio.to_thread.run_sync(context.term, abandon_on_cancel=True)
    if closing.cancelled_caught:
        log.warning("ZeroMQ did not end within %g s: left to the end of the process", CLOSE_SECONDS)


async def _limit_connections(monitor: Socket, port: int, limit: int) -> NoReturn:
    """Hang up on each connection to a port that is one too many; ZeroMQ itself takes any number."""
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
    """End the connection of this descriptor, which ZeroMQ then closes; it may have done so by itself."""
    with suppress(OSError), os_socket.socket(fileno=os.dup(descriptor)) as peer:
        if peer.getsockname()[1] == port:  # else the number is somebody else's by now
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
    """The address of a host name, which ZeroMQ does not look up for what it binds."""
    if host == "*":
        return host
    try:
        found = await anyio.getaddrinfo(host, None, type=os_socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidConfiguration(
            f"{host!r} is no host to listen on for {setting} ({error.strerror}): change legacy.host"
        ) from None
    return str(found[0][4][0])
