"""Starts a node, has it serve until it is told to stop, and tells systemd.

Its NATS server starts first, and reads its store while everything else is still imported.
"""

from __future__ import annotations

import importlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from suite import data_directory
from suite.config import Settings
from suite.explanation.words import counted
from suite.identity import Clock, NewId, Now, new_id, utc_now
from suite.node.address import Address
from suite.node.nats_server import reached_nats
from suite.node.progress import StartProgress
from suite.service_manager import ServiceManager
from suite.tasks import background

if TYPE_CHECKING:
    from suite.node.node import Node

logger = logging.getLogger("suite.node")

_SERVING: Final = "suite.node.serving"
"""The module with all the rest."""


async def serve(
    settings: Settings,
    *,
    take_over: bool = False,
    on_ready: Callable[[Node], None] = lambda _: None,
    manager: ServiceManager | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM. After a second signal running generations are not waited for.

    `on_ready` is called when the node serves, and `manager` is told how it is. Raises the error that keeps
    the node from starting, or Fenced, LogGone or NodeLost when it may not go on.
    """
    manager = manager or ServiceManager.nobody()
    async with background() as tasks:
        serving, stop = anyio.Event(), anyio.Event()
        tasks.start_soon(_wait_for_signals, serving, stop, tasks.cancel_scope)
        progress = StartProgress()
        tasks.start_soon(progress.tell)
        tasks.start_soon(manager.starting)

        def on_step(doing: str) -> None:
            progress.step(doing)
            manager.status(doing)

        async with running_node(settings, take_over=take_over, on_step=on_step) as node:
            progress.end()
            serving.set()
            on_ready(node)
            manager.ready(f"node {node.name} serves {counted(len(node.catalogue.models), 'model')}")
            tasks.start_soon(manager.feed_watchdog, node.reaches_nats)
            await stop.wait()
            manager.stopping()
    logger.info("node %s has stopped", settings.node)


async def _wait_for_signals(serving: anyio.Event, stop: anyio.Event, scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if stop.is_set() or not serving.is_set():
                logger.info("stopping at once")
                scope.cancel()
            stop.set()


@asynccontextmanager
async def running_node(
    settings: Settings,
    *,
    take_over: bool = False,
    on_step: Callable[[str], None] = lambda _: None,
    new_id: NewId = new_id,
    now: Now = utc_now,
    clock: Clock = time.monotonic,
) -> AsyncIterator[Node]:
    """A node that serves until the block ends.

    `on_step` is called with what the start does next; an empty text is a step that tells by itself what it
    waits for.
    """
    on_step(f"connecting to NATS at {settings.nats.url}" if settings.nats.url else "starting the NATS server")
    with data_directory.held(settings.data_dir):
        Address(settings, None).withdraw()  # of a node that was killed
        async with background() as tasks:
            tasks.start_soon(_import_the_rest)
            async with reached_nats(settings) as nats:
                from suite.node.serving import served_node

                async with served_node(
                    settings,
                    nats,
                    take_over=take_over,
                    on_step=on_step,
                    new_id=new_id,
                    now=now,
                    clock=clock,
                ) as node:
                    yield node


async def _import_the_rest() -> None:
    await anyio.to_thread.run_sync(importlib.import_module, _SERVING)
