"""Runs the application on uvicorn, on a socket that listens already."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import anyio
import uvicorn
from starlette.types import ASGIApp

from suite.listening import BACKLOG
from suite.tasks import background


@asynccontextmanager
async def serving(app: ASGIApp, opened: socket.socket, *, drain_seconds: float) -> AsyncIterator[None]:
    """Serve on a socket until the block ends; running answers have ``drain_seconds`` to end then."""
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )
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
            server.should_exit = True
            with anyio.CancelScope(shield=True):
                await ended.wait()


class _Server(uvicorn.Server):
    """uvicorn's server, without its handling of signals: the process has its own."""

    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]
        """Leave the signals alone."""
        return nullcontext()
