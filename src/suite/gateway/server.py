"""Runs the application on uvicorn, until it is told to stop."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext

import anyio
import uvicorn
from starlette.types import ASGIApp

from suite.errors import InvalidConfiguration, PortTaken
from suite.tasks import background

logger = logging.getLogger("suite.gateway")

_BACKLOG = 1024


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound, so that a busy port shows before anything else is started.

    Raises PortTaken, or InvalidConfiguration for a host that this machine does not have.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise PortTaken(
                    f"port {port} of {host} cannot be used ({os.strerror(error.errno)}): choose another"
                ) from None
            raise InvalidConfiguration(
                f"{host} is no address of this machine ({error}): choose another"
            ) from None
        yield bound


@asynccontextmanager
async def serving(app: ASGIApp, bound: socket.socket, *, drain_seconds: float) -> AsyncIterator[None]:
    """Serve on a socket until the block ends; running answers have ``drain_seconds`` to end then."""
    config = uvicorn.Config(
        app,
        loop="none",
        http="auto",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )
    server = _Server(config)
    async with background() as tasks:
        ended = anyio.Event()

        async def serve() -> None:
            try:
                await server.serve(sockets=[bound])
            finally:
                ended.set()

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
        return nullcontext()
