"""Runs the application on uvicorn, on a socket that listens already."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial

import anyio
import uvicorn
from starlette.types import ASGIApp

from suite.gateway.connection import GuardedConnection, Limits
from suite.listening import BACKLOG
from suite.tasks import background

_KEEP_ALIVE_SECONDS = 75
"""How long a connection may be unused. Clients give theirs up sooner, so none is closed as they use it."""
_HANDSHAKE_SECONDS = 10.0
"""How long TLS may take to begin. Until then a connection counts for nothing, so it should not be long."""


@asynccontextmanager
async def serving(
    app: ASGIApp,
    opened: socket.socket,
    *,
    limits: Limits,
    tls: ssl.SSLContext | None = None,
    drain_seconds: float,
) -> AsyncIterator[None]:
    """Serve on a socket until the block ends; running answers have ``drain_seconds`` to end then."""
    config = uvicorn.Config(
        app,
        loop="none",
        http=partial(GuardedConnection, limits=limits),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # whoever sends nonsense should not fill the log
        access_log=False,
        server_header=False,
        date_header=False,  # that of the application needs no timer
        backlog=BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )
    config.load()
    config.ssl = tls
    server = _Server(config)
    ended = anyio.Event()

    async def serve() -> None:
        try:
            await server.serve(sockets=[opened])
        finally:
            ended.set()

    async with background() as tasks:
        tasks.start_soon(serve)
        try:
            yield
        finally:
            server.stop()
            with anyio.CancelScope(shield=True):
                await ended.wait()


class _Server(uvicorn.Server):
    """uvicorn's server without its handling of signals, as the process has its own, and without its timer."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, as uvicorn does, with a limit for handshakes."""
        config = self.config
        connection = partial(
            config.http_protocol_class,
            config=config,  # type: ignore[call-arg]
            server_state=self.server_state,
            app_state={},
        )
        self.servers = [
            await asyncio.get_running_loop().create_server(
                connection,
                sock=each,
                ssl=config.ssl,
                ssl_handshake_timeout=None if config.ssl is None else _HANDSHAKE_SECONDS,
                backlog=config.backlog,
            )
            for each in sockets or ()
        ]
        self.started = True

    def stop(self) -> None:
        """Have it end in order."""
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        """Wait until it is to end."""
        await self._stopping.wait()

    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]
        """Leave the signals alone."""
        return nullcontext()
