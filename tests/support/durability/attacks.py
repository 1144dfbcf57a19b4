"""What is done to a service under load: each attack is one fault, from its begin to its end."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple, TypeAlias

import anyio
import psutil

from support.durability.system import Part, System

FROZEN_SECONDS: Final = (0.3, 3.0)

Attack: TypeAlias = Callable[[System, random.Random], Awaitable[float]]
"""Does it, and returns when it was over, by `time.monotonic`: from then on the service has to come back."""


class Fault(NamedTuple):
    """A fault of the table."""

    name: str
    attack: Attack
    tells: str = ""
    """A pattern of the problem that health must tell meanwhile; empty: it is over too soon, or nobody can."""
    keeps: str = ""
    """A pattern of the files that stay on purpose, such as a damaged one that was set aside."""


# --- processes ----------------------------------------------------------------------------------------------


async def kill(part: Part, system: System, _: random.Random) -> float:
    """A process that is gone at once."""
    process = await system.part(part)
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    if part == "node":
        await system.ended()
    return killed_at


async def freeze(part: Part, system: System, chance: random.Random) -> float:
    """A process that stands still for a while, and goes on if it is still there."""
    process = await system.part(part)
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGSTOP)
    try:
        await anyio.sleep(chance.uniform(*FROZEN_SECONDS))
    finally:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
    return time.monotonic()


PROCESS_FAULTS: Final = tuple(
    Fault(f"{name} {part}", partial(attack, part))
    for part in ("actor", "node", "nats-server", "gateway")
    for name, attack in (("kill -9", kill), ("SIGSTOP", freeze))
)
