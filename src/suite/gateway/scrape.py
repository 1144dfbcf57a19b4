"""A place where Prometheus fetches metrics, and nothing else is served: that of a node."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
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


@asynccontextmanager
async def scraped(exposition: Exposition, opened: socket.socket) -> AsyncIterator[None]:
    """Serve ``/metrics`` on a socket that listens, until the block ends.

    Anybody may ask, so the text is made beside the event loop, for one at a time.
    """
    one = CapacityLimiter(1)

    async def metrics(_: Request) -> Response:
        text = await anyio.to_thread.run_sync(exposition.text, limiter=one)
        return Response(text, media_type=MEDIA_TYPE)

    app = Starlette(routes=[Route("/metrics", metrics)])
    async with serving(app, opened, limits=_LIMITS, drain_seconds=_DRAIN_SECONDS):
        yield
