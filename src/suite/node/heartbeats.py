"""Heartbeats for a requester who waits, as long as there is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from suite.bus.action import Call
from suite.messages.signals import HEARTBEAT_SECONDS, Heartbeat
from suite.tasks import background


@asynccontextmanager
async def beating(call: Call | None, stop: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """Send the requester a heartbeat every `HEARTBEAT_SECONDS` during the block; none if ``call`` is None.

    ``stop`` is called when nobody receives them any more.
    """

    async def beat(call: Call) -> None:
        while True:
            await anyio.sleep(HEARTBEAT_SECONDS)
            await call.send(Heartbeat())

    async def watch(call: Call) -> None:
        await call.gone.wait()
        stop()

    async with background() as tasks:
        if call is not None:
            tasks.start_soon(beat, call)
            tasks.start_soon(watch, call)
        yield
