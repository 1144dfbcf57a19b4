"""A real nats-server for a test, and connections to it."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest

import suite
from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.client import Client
from suite.client.session import REQUEST_SECONDS, SILENCE_SECONDS
from suite.identity import new_id
from suite.log.mirror import keep_mirror
from suite.messages.subjects import Subjects
from suite.tasks import background

PATIENCE_SECONDS = 20.0


@asynccontextmanager
async def running_nats(
    directory: Path, *, is_shared: bool = False
) -> AsyncIterator[tuple[EmbeddedServer, Connection]]:
    """An embedded server, and a connection of the suite's own role to it."""
    async with (
        EmbeddedServer.start(directory / "nats", is_shared=is_shared) as server,
        Connection.open(server.access, name="test") as connection,
    ):
        yield server, connection


@asynccontextmanager
async def mirrored_nats(directory: Path, *, is_shared: bool = False) -> AsyncIterator[EmbeddedServer]:
    """A server for nodes to which it is an existing NATS; the mirror of their log is kept beside them."""
    async with running_nats(directory, is_shared=is_shared) as (server, connection), background() as tasks:
        tasks.start_soon(partial(keep_mirror, connection, server.mirror, Subjects(), new_id=new_id))
        yield server


@asynccontextmanager
async def operator_of(
    server: EmbeddedServer,
    *,
    request_seconds: float = REQUEST_SECONDS,
    silence_seconds: float = SILENCE_SECONDS,
) -> AsyncIterator[Client]:
    """A client of what serves on this NATS, with an operator's rights."""
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("SUITE_NATS_READER_USER", str(server.consumer.user))
        environ.setenv("SUITE_NATS_READER_PASSWORD", str(server.consumer.password))
        access = server.operator
        async with suite.connect(
            access.url,
            user=access.user,
            password=access.password,
            request_seconds=request_seconds,
            silence_seconds=silence_seconds,
        ) as client:
            yield client


def gateway_environment(server: EmbeddedServer) -> dict[str, str]:
    """The environment of a gateway that uses this NATS."""
    consumer, operator = server.consumer, server.operator
    return {
        "SUITE_NATS_URL": server.access.url,
        "SUITE_NATS_USER": operator.user or "",
        "SUITE_NATS_PASSWORD": operator.password or "",
        "SUITE_NATS_INBOX_PREFIX": operator.inbox_prefix,
        "SUITE_NATS_READER_USER": consumer.user or "",
        "SUITE_NATS_READER_PASSWORD": consumer.password or "",
    }


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
