"""A real nats-server for a test, and connections to it."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer

PATIENCE_SECONDS = 20.0


@asynccontextmanager
async def running_nats(directory: Path) -> AsyncIterator[tuple[EmbeddedServer, Connection]]:
    """An embedded server, and a connection of the suite's own role to it."""
    async with (
        EmbeddedServer.start(directory / "nats") as server,
        Connection.open(server.access, name="test") as connection,
    ):
        yield server, connection


async def restart_nats(server: EmbeddedServer, *connections: Connection) -> None:
    """Kill the server as a power cut would, and wait until it and the connections are back."""
    before, lives = server.pid, [connection.connections for connection in connections]
    os.kill(before, signal.SIGKILL)
    await eventually(lambda: server.pid != before)
    for connection, life in zip(connections, lives, strict=True):
        await eventually(lambda c=connection, n=life: c.connections > n)  # type: ignore[misc]
        await connection.wait_connected(PATIENCE_SECONDS)


async def eventually(holds: Callable[[], object]) -> None:
    """Wait until it holds; fails if it never does."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while not holds():
            await anyio.sleep(0.01)
