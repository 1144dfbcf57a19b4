"""Publishes errors over ZeroMQ, as the older services did: the text ``ERROR:`` and a JSON object."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from suite.legacy.sockets import opened_sockets

if TYPE_CHECKING:
    from suite.legacy.sockets import Socket

PREFIX = b"ERROR:"

_encode = msgspec.json.Encoder().encode


class OldError(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON object after the prefix."""

    error_type: str
    message: str
    severity: str
    timestamp: float
    """Seconds since 1970."""
    agent: str
    port: int


class ErrorPublisher:
    """Publishes errors to current subscribers, without waiting for them."""

    def __init__(self, socket: Socket, *, port: int, errors_port: int | None) -> None:
        self._socket = socket
        self._port = port
        self.errors_port = errors_port
        """The port that subscribers connect to; None when errors go to the error bus."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *, host: str, errors_port: int, error_bus: str | None = None, port: int
    ) -> AsyncIterator[ErrorPublisher]:
        """Listen on ``errors_port`` for subscribers, or connect to an ``error_bus`` (``tcp://host:7150``).

        ``port`` is the request port, which the messages include. Raises PortTaken, and InvalidConfiguration
        if ZeroMQ is not installed or the address is invalid.
        """
        async with opened_sockets() as sockets:
            if error_bus is not None:
                socket = sockets.connect_pub(error_bus, setting="legacy.error_bus")
                yield cls(socket, port=port, errors_port=None)
            else:
                socket, bound = await sockets.bind_pub(host, errors_port, setting="legacy.errors_port")
                yield cls(socket, port=port, errors_port=bound)

    async def publish(
        self, error_type: str, message: str, severity: str, timestamp: float, agent: str
    ) -> None:
        """Publish one error. Subscribers that are too slow miss it.

        ``timestamp`` is in seconds since 1970.
        """
        error = OldError(
            error_type=error_type,
            message=message,
            severity=severity,
            timestamp=timestamp,
            agent=agent,
            port=self._port,
        )
        await self._socket.send(PREFIX + _encode(error))
