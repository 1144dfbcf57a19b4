"""The time until a node that was killed serves again, with a large log, against one with an empty log.

    .venv/bin/python benchmarks/recovery.py [--quick]

The log (1,000,000 events of 30 days, 40,000 with --quick, see workload.py) is filled through `Log.append`
into a data directory. A real `suite serve` of one of the nodes that the log is about folds it all. Then, in
each turn, the node gets some more events, is killed (SIGKILL, by which its children end too), and is started
again. Measured is the time from the start of the process until it serves: until a client that finds it by its
connection.json has an answer of `health_check`. The reference is the same with a log of a few events. Both
take turns, and the medians count. Prints one line of JSON, in seconds: lower is better. On stderr, the
processor time of the node and of its nats-server until then.
"""

from __future__ import annotations

import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from subprocess import DEVNULL
from typing import NamedTuple

import anyio
import anyio.abc
import msgspec
import psutil

import suite
from harness import quick, report
from suite.bus import credentials
from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.bus.jetstream import MAX_BATCH_MESSAGES
from suite.client import Client
from suite.config import ConnectionFile, RetentionSettings
from suite.errors import ReadModelBehind, SuiteError
from suite.identity import new_id
from suite.log import Log
from suite.messages.subjects import Subjects
from workload import NODES, Workload

SUBJECTS = Subjects()
EVENTS_BETWEEN = 20
"""What a node gets before it is killed."""
START_SECONDS = 600.0


class Clock:
    """The time at which events are appended."""

    time: datetime

    def now(self) -> datetime:
        return self.time


class Start(NamedTuple):
    """A start: the seconds until the node answered, and the processor time until then."""

    seconds: float
    node_cpu: float
    nats_cpu: float


async def fill(data_dir: Path, workload: Workload) -> None:
    """Make the log of a data directory."""
    await anyio.Path(data_dir).mkdir()
    known = credentials.change(credentials.path(data_dir), lambda known: known.sharing({}))
    clock, seq, events = Clock(), 0, workload.mixed()
    async with (
        EmbeddedServer.start(data_dir / "nats", users=known.listed()) as server,
        Connection.open(server.access, name="fill") as connection,
        Log.open(
            connection,
            SUBJECTS,
            source=f"/node/{NODES[0]}",
            new_id=new_id,
            now=clock.now,
            retention=RetentionSettings().seconds(),
        ) as log,
    ):
        while batch := tuple(islice(events, MAX_BATCH_MESSAGES)):
            clock.time = workload.time(min(seq + len(batch), workload.count))
            seq = await log.append(*batch, correlation_id=new_id())


class Node:
    """A node that is killed and started again on one data directory."""

    def __init__(self, data_dir: Path, models: Path) -> None:
        self._data_dir = data_dir
        self._command = [sys.executable, "-m", "suite", "serve", "--node", NODES[0]]
        self._command += ["--data-dir", str(data_dir), "--models-dir", str(models)]
        self._process: anyio.abc.Process | None = None

    async def start(self) -> Start:
        since = time.perf_counter()
        self._process = await anyio.open_process(self._command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
        with anyio.fail_after(START_SECONDS):
            while not await self._answers(self._process.pid):
                await anyio.sleep(0.01)
        seconds = time.perf_counter() - since
        node = psutil.Process(self._process.pid)
        servers = [each for each in node.children() if "nats-server" in each.name()]
        return Start(seconds, _cpu(node), sum(map(_cpu, servers)))

    async def _answers(self, pid: int) -> bool:
        with suppress(OSError, msgspec.MsgspecError, SuiteError):
            if ConnectionFile.read(self._data_dir).pid == pid:
                async with self.client() as client:
                    await client.health_check()
                    return True
        return False

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with suite.connect(data_dir=self._data_dir, request_seconds=60) as client:
            yield client

    async def work(self) -> None:
        """Have it append events, and wait until its read models have them and all before."""
        async with self.client() as client:
            for number in range(EVENTS_BETWEEN):
                await client.record_usage("model", usage_type=f"use {number}")
            seq = await client.last_seq()
            for reads in (client.usage, client.get_fleet, client.get_performance_metrics, client.get_errors):
                with anyio.fail_after(START_SECONDS):
                    await _until_current(partial(reads, min_seq=seq))

    async def end(self, kind: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(kind)
            await self._process.wait()
            await self._process.aclose()


async def _until_current(read: Callable[[], Awaitable[object]]) -> None:
    """Ask a read model until it has what it is asked for."""
    while True:
        try:
            await read()
        except ReadModelBehind:
            continue
        return


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def main() -> None:
    is_quick = quick(__doc__)
    workload, turns = Workload(40_000 if is_quick else 1_000_000), 1 if is_quick else 7
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "models").mkdir()
        await fill(directory / "large", workload)
        await fill(directory / "small", Workload(10))
        nodes = {side: Node(directory / side, directory / "models") for side in ("large", "small")}
        starts: dict[str, list[Start]] = {side: [] for side in nodes}
        try:
            for node in nodes.values():
                await node.start()
                await node.work()
            for _ in range(turns):
                for side, node in nodes.items():
                    await node.work()
                    await node.end(signal.SIGKILL)
                    starts[side].append(await node.start())
        finally:
            with anyio.CancelScope(shield=True):
                for node in nodes.values():
                    await node.end(signal.SIGTERM)
    for side, each in starts.items():
        medians = Start(*map(statistics.median, zip(*each, strict=True)))
        print(
            f"{side}: {medians.seconds:.2f} s; processor: node {medians.node_cpu:.2f} s, "
            f"nats-server {medians.nats_cpu:.2f} s; worst {max(each).seconds:.2f} s",
            file=sys.stderr,
        )
    large, small = (statistics.median(start.seconds for start in starts[side]) for side in nodes)
    report(f"recovery.{workload.count}", large, small, unit="s", better="lower")


if __name__ == "__main__":
    anyio.run(main, backend_options={"use_uvloop": True})
