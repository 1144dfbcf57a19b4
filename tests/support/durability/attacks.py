"""What is done to a service under load: each attack is one fault, from its begin to its end."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import anyio
import psutil

from suite.errors import SuiteError
from suite.messages.events import InstanceCrashed
from support.cgroups import joining
from support.disks import read_only
from support.durability.health import sample
from support.durability.judging_read_models import PROJECTIONS
from support.durability.strange_clients import cut_streams, read_nothing
from support.durability.system import MODELS, PARTS, PATIENCE_SECONDS, Part, System

FROZEN_SECONDS: Final = (0.3, 3.0)
LONG_FROZEN_SECONDS: Final = 8.0
"""Longer than clients and nodes wait for a sign of life."""
FULL_SECONDS: Final = (2.5, 4.0)
ALWAYS_WRITTEN: Final = ("usage", "model_evaluation")
"""Read models that the load keeps busy: nobody notices a lock on one that has nothing to write."""
CLOCK_SECONDS: Final = 2.0
CLOCK_JUMPS: Final = (-200 * 86_400.0, -3_600.0, 90.0, 3 * 3_600.0, 200 * 86_400.0)
PAGE_BYTES: Final = 4096

Attack: TypeAlias = Callable[[System, random.Random], Awaitable[float]]
"""Does it, and returns when it was over, by `time.monotonic`: from then on the service has to come back.

It raises AssertionError or TimeoutError if what must be seen of it was not seen.
"""


class Fault(NamedTuple):
    """A fault of the table."""

    name: str
    attack: Attack
    tells: str = ""
    """A pattern of the problem that health must tell meanwhile; empty: it is over too soon, or nobody can."""
    keeps: str = ""
    """A pattern of the files that stay on purpose, such as a damaged one that was set aside."""
    fact: str = ""
    """What the log must say of it, as `instance.crashed`."""


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


async def kill_actor(system: System, _: random.Random) -> float:
    """A model's process that is gone at once, and that nobody was about to end."""
    async with system.reloading:
        pid = await system.actor_of(MODELS[0])
        os.kill(pid, signal.SIGKILL)
        killed_at = time.monotonic()
        await system.missed(MODELS[0], pid)
    return killed_at


async def freeze(part: Part, system: System, chance: random.Random) -> float:
    """A process that stands still for a while, and goes on if it is still there."""
    process = await system.part(part)
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGSTOP)
    is_long = chance.random() < 0.2
    try:
        await anyio.sleep(LONG_FROZEN_SECONDS if is_long else chance.uniform(*FROZEN_SECONDS))
    finally:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
    return time.monotonic()


# --- the disk -----------------------------------------------------------------------------------------------


async def fill_disk(system: System, chance: random.Random) -> float:
    """Somebody else takes all of the disk, and gives it back."""
    await anyio.to_thread.run_sync(system.disk.fill)
    try:
        await anyio.sleep(chance.uniform(*FULL_SECONDS))
    finally:
        system.disk.clear()
    return time.monotonic()


async def read_only_store(system: System, chance: random.Random) -> float:
    """The store cannot be written when nats-server comes back, as after an error of the disk."""
    with read_only(system.data_dir / "nats"):
        await kill("nats-server", system, chance)
        await anyio.sleep(chance.uniform(*FULL_SECONDS))
    return time.monotonic()


# --- read models --------------------------------------------------------------------------------------------


def _a_read_model(system: System, chance: random.Random) -> Path:
    return system.data_dir / "projections" / f"{chance.choice(list(PROJECTIONS))}.db"


async def _a_read_model_in_use_or_not(system: System, chance: random.Random) -> Path:
    """Sometimes its node is killed first, so that what is done to it is met by the next start."""
    if chance.random() < 0.3:
        await kill("node", system, chance)
    return _a_read_model(system, chance)


async def corrupt_projection(system: System, chance: random.Random) -> float:
    """A disk that has forgotten what stood in a file."""
    path = await _a_read_model_in_use_or_not(system, chance)
    with path.open("r+b") as file:
        for place in range(0, path.stat().st_size, PAGE_BYTES):
            file.seek(place)
            file.write(chance.randbytes(PAGE_BYTES))
    return time.monotonic()


async def truncate_projection(system: System, chance: random.Random) -> float:
    """A file of which the end is missing, or all."""
    path = await _a_read_model_in_use_or_not(system, chance)
    os.truncate(path, int(path.stat().st_size * chance.choice((0.0, chance.random()))))
    return time.monotonic()


async def lock_projection(system: System, chance: random.Random) -> float:
    """Somebody who has a file open, and keeps others from writing until health says so."""
    path = system.data_dir / "projections" / f"{chance.choice(ALWAYS_WRITTEN)}.db"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as db:
        db.execute("BEGIN EXCLUSIVE")
        with anyio.fail_after(PATIENCE_SECONDS):
            while not any("locked" in problem for problem in (await sample(system)).problems):
                await anyio.sleep(0.1)
    return time.monotonic()


# --- models -------------------------------------------------------------------------------------------------


async def truncate_model(system: System, chance: random.Random) -> float:
    """The file of a loaded model is cut, and some time later whole again."""
    model_id = chance.choice(MODELS)
    await system.actor_of(model_id)
    path = system.model_file(model_id)
    os.truncate(path, int(path.stat().st_size * chance.uniform(0.0, 0.9)))
    await anyio.sleep(chance.uniform(*FROZEN_SECONDS))
    system.write_model(model_id)
    return time.monotonic()


async def replace_model(system: System, chance: random.Random) -> float:
    """The file of a loaded model becomes another one, of the same size and time."""
    model_id = chance.choice(MODELS)
    await system.actor_of(model_id)
    path = system.model_file(model_id)
    times = path.stat()
    system.write_model(model_id, seed=chance.randrange(2**31))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    over_at = time.monotonic()
    await _serves_content(system, model_id, sha256(path.read_bytes()).hexdigest())
    return over_at


async def _serves_content(system: System, model_id: str, digest: str) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            with suppress(SuiteError):
                await system.client.load_model(model_id)
                status = await system.client.get_model_status(model_id)
                instance = None if status.model is None else status.model.instance
                if instance is not None and instance.sha256 == digest:
                    return
            await anyio.sleep(0.05)


# --- clients ------------------------------------------------------------------------------------------------


async def deaf_clients(system: System, _: random.Random) -> float:
    """Clients that ask for much and read nothing of it."""
    await system.actor_of(MODELS[0])
    await read_nothing(system, MODELS[0])
    return time.monotonic()


async def cut_connections(system: System, chance: random.Random) -> float:
    """Connections that end in the middle of a stream."""
    await system.actor_of(MODELS[0])
    await cut_streams(system, MODELS[0], chance)
    return time.monotonic()


# --- the machine --------------------------------------------------------------------------------------------


async def move_clock(system: System, chance: random.Random) -> float:
    """The clock of the service's own processes jumps, and some seconds later jumps back."""
    system.set_clock(chance.choice(CLOCK_JUMPS))
    try:
        await anyio.sleep(CLOCK_SECONDS)
    finally:
        system.set_clock(0.0)
    return time.monotonic()


_HOG: Final = """
import pathlib, sys
def kills():
    return pathlib.Path(sys.argv[1]).read_text().rpartition("oom_kill ")[2]
before, held = kills(), []
while kills() == before:
    held.append(b"x" * (4 << 20))
"""
"""Takes memory until the kernel kills a process of the group."""


async def exhaust_memory(system: System, _: random.Random) -> float:
    """Others take so much memory that the kernel kills a model's process."""
    assert system.group is not None
    async with system.reloading:
        pid = await system.actor_of(MODELS[0])
        await anyio.Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
        hog = [*joining(system.group), sys.executable, "-c", _HOG, str(system.group / "memory.oom_control")]
        with anyio.fail_after(PATIENCE_SECONDS):
            await anyio.run_process(hog, check=False)  # the kernel may kill it too
        over_at = time.monotonic()
        await _crash_for_lack_of_memory(system, MODELS[0])
    return over_at


async def _crash_for_lack_of_memory(system: System, model_id: str) -> None:
    """Wait until the log says why the process has ended."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            with suppress(SuiteError):
                async for event in system.client.events(f"instance.*.{model_id}.crashed"):
                    if isinstance(event.data, InstanceCrashed) and event.data.reason == "out_of_memory":
                        return
            await anyio.sleep(0.05)


# --- all ----------------------------------------------------------------------------------------------------

_CRASHED: Final = "instance.crashed"
_KILLS: Final[Mapping[Part, Attack]] = {"actor": kill_actor}
_FACTS: Final[Mapping[Part, str]] = {"actor": _CRASHED, "node": "node.started"}
PROCESS_FAULTS: Final = (
    *(
        Fault(f"kill -9 {part}", _KILLS.get(part, partial(kill, part)), fact=_FACTS.get(part, ""))
        for part in PARTS
    ),
    *(Fault(f"SIGSTOP {part}", partial(freeze, part)) for part in PARTS),
)
_SET_ASIDE: Final = r"projections/\w+\.damaged-"
OTHER_FAULTS: Final = (
    Fault("full disk", fill_disk, tells="disk is full"),
    Fault("read-only store", read_only_store),
    Fault("projection corrupted", corrupt_projection, keeps=_SET_ASIDE),
    Fault("projection truncated", truncate_projection, keeps=_SET_ASIDE),
    Fault("projection locked", lock_projection, tells="locked"),
    Fault("model truncated", truncate_model),
    Fault("model replaced", replace_model),
    Fault("client reads nothing", deaf_clients),
    Fault("connection cut", cut_connections),
    Fault("clock moved", move_clock),
)
MEMORY_FAULT: Final = Fault("out of memory", exhaust_memory, fact=_CRASHED)
"""Only where the service is in a control group."""
