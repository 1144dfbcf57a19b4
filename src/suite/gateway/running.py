"""One gateway, from its start to its end."""

from __future__ import annotations

import logging
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from ipaddress import ip_address
from typing import Final

import anyio
import msgspec
from anyio.abc import TaskGroup

from suite.circuit_breaker import CircuitBreaker, log_event
from suite.client import Client
from suite.config.settings import HttpSettings
from suite.errors import Unavailable
from suite.gateway.access import Access, Everybody
from suite.gateway.app import application
from suite.gateway.connection import Limits, room_for_connections
from suite.gateway.gateway import Gateway
from suite.gateway.keys import KeyRing
from suite.gateway.server import serving
from suite.gateway.service_breaker import service_breaker
from suite.gateway.tls import Certificate
from suite.identity import new_id, utc_now
from suite.listening import listening, url_of
from suite.messages.events import BreakerEvent
from suite.service_manager import ServiceManager
from suite.tasks import background
from suite.telemetry.exposition import Exposition
from suite.ticks import tick

logger = logging.getLogger("suite.gateway")

DEFAULT_LISTEN: Final = "127.0.0.1:8080"
DRAIN_SECONDS: Final = 10.0
"""How long the end of the gateway waits for answers that are being sent. Then they end with an error."""
NODE_DRAIN_SECONDS: Final = 1.0
"""The same for a gateway that ends with its node, which has waited already for the answers that it makes."""
_LAST_WORDS_SECONDS: Final = 1.0
"""How long the errors may take to be sent."""
TELL_SECONDS: Final = 1.0
"""How soon what happens to the breaker is told."""
_MIB: Final = 2**20


async def run_gateway(
    settings: HttpSettings,
    connect: Callable[[], AbstractAsyncContextManager[Client]],
    *,
    node: str,
    exposition: Exposition,
    inherited: int | None = None,
    on_ready: Callable[[str], None],
    on_event: Callable[[BreakerEvent], None],
    manager: ServiceManager | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; after a second one, running answers are not waited for.

    ``node`` is the name of the node that it runs beside, ``exposition`` what this process measures.
    ``inherited`` is the descriptor of a socket that listens already. ``on_ready`` is called with the URL,
    ``on_event`` with what happens to the breaker around the service, and ``manager`` is told how the gateway
    is. Raises PortTaken, InvalidConfiguration, KeysMissing, and what connecting raises.
    """
    manager = manager or ServiceManager.nobody()
    certificate = Certificate.of(settings.tls_certificate, settings.tls_key)
    with _socket(settings, inherited) as opened:
        async with background() as tasks, connect() as client:
            stop = anyio.Event()
            tasks.start_soon(_wait_for_signals, stop, tasks.cancel_scope)
            access = await _access(settings, opened, client, tasks)
            breaker = service_breaker(node=node, clock=time.monotonic)
            tasks.start_soon(_tell_events, breaker, on_event)
            gateway = Gateway(
                client,
                access,
                breaker,
                exposition=exposition,
                load_seconds=settings.load_seconds,
                new_id=new_id,
                now=utc_now,
                clock=time.monotonic,
            )
            if isinstance(access, KeyRing):
                tasks.start_soon(gateway.work.watch, access.rights)
            app = application(gateway, cors_origins=settings.allowed_origins)
            tasks.start_soon(gateway.digests.run)
            tasks.start_soon(gateway.live.run)
            if certificate is not None:
                tasks.start_soon(certificate.watch)
            tls = None if certificate is None else certificate.context
            drain = DRAIN_SECONDS if inherited is None else NODE_DRAIN_SECONDS
            limit = drain + _LAST_WORDS_SECONDS
            async with serving(app, opened, limits=_limits(settings), tls=tls, drain_seconds=limit):
                url = url_of(opened, secure=tls is not None)
                on_ready(url)
                manager.ready(f"the models are at {url}/v1")
                tasks.start_soon(manager.feed_watchdog, client.is_answered)
                await stop.wait()
                manager.stopping()
                gateway.live.end()
                tasks.start_soon(_end_after, drain, gateway)


async def _tell_events(breaker: CircuitBreaker, on_event: Callable[[BreakerEvent], None]) -> None:
    while True:
        for event in breaker.take_events():
            log_event(event)
            on_event(event)
        await tick(TELL_SECONDS)


async def _end_after(seconds: float, gateway: Gateway) -> None:
    await anyio.sleep(seconds)
    gateway.work.end(Unavailable("the gateway ends: send the request again"))


async def _access(settings: HttpSettings, opened: socket.socket, client: Client, tasks: TaskGroup) -> Access:
    """Who is let in: only who has a key, where others than this machine can ask."""
    is_local = ip_address(opened.getsockname()[0]).is_loopback
    if is_local and not settings.require_keys:
        return Everybody(settings.allowed_origins)
    ring = KeyRing(now=utc_now, clock=time.monotonic)
    await ring.follow(client, tasks)
    if not is_local and settings.tls_certificate is None:
        logger.warning("keys and texts come unencrypted: give --tls-certificate and --tls-key")
    return ring


def _limits(settings: HttpSettings) -> Limits:
    return Limits(
        body_bytes=int(settings.max_body_mb * _MIB),
        connections=room_for_connections(settings.max_connections),
    )


async def _wait_for_signals(stop: anyio.Event, scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if stop.is_set():
                scope.cancel()
            stop.set()


def _socket(settings: HttpSettings, inherited: int | None) -> AbstractContextManager[socket.socket]:
    if inherited is not None:
        return socket.socket(fileno=inherited)
    address = msgspec.structs.replace(settings, listen=settings.listen or DEFAULT_LISTEN).address
    return listening(*address)
