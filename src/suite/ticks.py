"""The moments at which whatever looks again and again does so, the same for all of a process (ADR 47)::

    while True:
        await tick(1.0)
        look()

A process that wakes takes a core from the models for a moment, and all threads of a model's step wait for the
one that has lost its core. So those who look every second wake together, once a second (coalesced timers).
"""

from __future__ import annotations

import math
from typing import Final

import anyio
import anyio.lowlevel

_LEAST: Final = 0.1
"""The least pause before a tick, as a part of the period: timers may fire a little early."""


def next_tick(seconds: float) -> float:
    """When the next tick of this period is: the next of its multiples, on the clock of the event loop."""
    now = anyio.current_time()
    return (math.floor(now / seconds + _LEAST) + 1) * seconds if seconds > 0 else now


async def tick(seconds: float) -> None:
    """Wait for the next tick of this period."""
    await anyio.sleep_until(next_tick(seconds))


async def tick_or(event: anyio.Event, seconds: float) -> None:
    """Wait for the next tick of this period, or for an event before that."""
    with anyio.CancelScope(deadline=next_tick(seconds)):
        await event.wait()
