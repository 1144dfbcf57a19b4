"""One gateway, from its start to its end."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import anyio
import msgspec

from suite.client import Client
from suite.config.settings import HttpSettings
from suite.gateway.access import Everybody
from suite.gateway.app import application
from suite.gateway.gateway import Gateway
from suite.gateway.server import listening, serving
from suite.identity import new_id, utc_now
from suite.tasks import background

logger = logging.getLogger("suite.gateway")

DEFAULT_LISTEN: Final = "127.0.0.1:8080"
DRAIN_SECONDS: Final = 10.0
"""How long the end of the gateway waits for answers that are being sent."""
_MIB: Final = 2**20


async def run_gateway(
    settings: HttpSettings,
    connect: Callable[[], AbstractAsyncContextManager[Client]],
    *,
    on_ready: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM; after a second one, running answers are not waited for.

    ``on_ready`` is called with the URL. Raises PortTaken, InvalidConfiguration, and what connecting raises.
    """
    host, port = msgspec.structs.replace(settings, listen=settings.listen or DEFAULT_LISTEN).address
    with listening(host, port) as bound:
        async with background() as tasks, connect() as client:
            stop = anyio.Event()
            tasks.start_soon(_wait_for_signals, stop, tasks.cancel_scope)
            gateway = Gateway(
                client,
                Everybody(),
                load_seconds=settings.load_seconds,
                new_id=new_id,
                now=utc_now,
                clock=time.monotonic,
            )
            app = application(gateway, max_body_bytes=int(settings.max_body_mb * _MIB))
            async with serving(app, bound, drain_seconds=DRAIN_SECONDS):
                on_ready(_url(host, bound.getsockname()[1]))
                await stop.wait()


async def _wait_for_signals(stop: anyio.Event, scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if stop.is_set():
                scope.cancel()
            stop.set()


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
