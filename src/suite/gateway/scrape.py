"""A place where Prometheus fetches metrics, and nothing else is served: that of a node."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from suite.gateway.connection import Limits
from suite.gateway.server import serving
from suite.telemetry.exposition import MEDIA_TYPE, Exposition

_LIMITS: Final = Limits(body_bytes=0, connections=64)
_DRAIN_SECONDS: Final = 1.0


async def written(text: Callable[[], bytes], one: CapacityLimiter) -> Response:
    """The answer with metrics. Anybody may ask, so they are written beside the event loop, for one at a time.

    `one` is what all answers of a process share.
    """
    return Response(await anyio.to_thread.run_sync(text, limiter=one), media_type=MEDIA_TYPE)


@asynccontextmanager
async def scraped(exposition: Exposition, opened: socket.socket) -> AsyncIterator[None]:
    """Serve ``/metrics`` on a socket that listens, until the block ends."""
    one = CapacityLimiter(1)

    async def metrics(_: Request) -> Response:
        return await written(exposition.text, one)

    app = Starlette(routes=[Route("/metrics", metrics)])
    async with serving(app, opened, limits=_LIMITS, drain_seconds=_DRAIN_SECONDS):
        yield
