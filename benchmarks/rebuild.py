"""Folding read models anew from a log of mixed events, against a bare consumer that decodes nothing.

    .venv/bin/python benchmarks/rebuild.py [--quick]

The log (1,000,000 events of 30 days, 40,000 with --quick, see workload.py) is filled through `Log.append`.
Ours is `Projector.rebuild` of each read model in turn, as `suite rebuild` has it done: followed, decoded,
folded into a fresh SQLite file beside the live one, and put in its place. The reference is nats-py's pull
consumer without acknowledgements, with the same subjects, on the same server and event loop (uvloop), which
throws away what it fetches. They take turns, and the medians count; before that the live read models have
folded the whole log once. Prints a line of JSON a read model and one for all: the events that all four get,
over the time that it takes (higher is better). Then the most memory that this process had by half and by the
end of the largest rebuild (ours) and by a tenth of it (reference), in MiB: a ratio of 1 is flat.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path

import nats
import psutil
import uvloop
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from harness import quick, report
from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.bus.jetstream import MAX_BATCH_MESSAGES
from suite.config import RetentionSettings
from suite.errors import ReadModelBehind
from suite.identity import new_id
from suite.log import Log
from suite.messages.actor import NatsAccess
from suite.messages.subjects import Subjects
from suite.projections.projections import Projections
from suite.projections.projector import Projector
from workload import Workload

SUBJECTS = Subjects()
FETCH = 1000
MIB = 2**20


class Clock:
    """The time at which events are appended."""

    time: datetime

    def now(self) -> datetime:
        return self.time


class Memory:
    """The most memory that this process had by each fraction of a rebuild."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.peaks = {0.1: 0.0, 0.5: 0.0, 1.0: 0.0}

    async def note(self, fraction: float) -> None:
        used = self._process.memory_info().rss / MIB
        for end, peak in self.peaks.items():
            if fraction <= end:
                self.peaks[end] = max(peak, used)


async def fill(log: Log, clock: Clock, workload: Workload) -> int:
    """The sequence of the last event."""
    events = workload.mixed()
    seq = 0
    while batch := tuple(islice(events, MAX_BATCH_MESSAGES)):
        clock.time = workload.time(min(seq + len(batch), workload.count))
        seq = await log.append(*batch, correlation_id=new_id())
    return seq


@asynccontextmanager
async def filled_log(access: NatsAccess, workload: Workload) -> AsyncIterator[tuple[Log, int]]:
    clock = Clock()
    async with (
        Connection.open(access, name="ours") as connection,
        Log.open(
            connection,
            SUBJECTS,
            source="/node/box1",
            new_id=new_id,
            now=clock.now,
            retention=RetentionSettings().seconds(),
        ) as log,
    ):
        yield log, await fill(log, clock, workload)


class Bare:
    """nats-py's own consumer."""

    def __init__(self, client: Client) -> None:
        self._jetstream = client.jetstream()

    @classmethod
    @asynccontextmanager
    async def connected(cls, access: NatsAccess) -> AsyncIterator[Bare]:
        client = await nats.connect(
            access.url, user=access.user, password=access.password, inbox_prefix=access.inbox_prefix
        )
        try:
            yield cls(client)
        finally:
            await client.close()

    async def read(self, aggregates: Sequence[str]) -> int:
        """Fetch all events of some aggregates: how many there were."""
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.ALL,
            filter_subjects=[SUBJECTS.aggregate(aggregate) for aggregate in aggregates],
            mem_storage=True,
        )
        info = await self._jetstream.add_consumer(SUBJECTS.stream, config)
        subscription = await self._jetstream.pull_subscribe_bind(info.name, SUBJECTS.stream)
        count, left = 0, info.num_pending or 0
        while left:
            messages = await subscription.fetch(min(FETCH, left), timeout=5)
            count, left = count + len(messages), left - len(messages)
        await subscription.unsubscribe()
        await self._jetstream.delete_consumer(SUBJECTS.stream, info.name)
        return count


class Turns:
    """The seconds of both sides for one read model."""

    def __init__(self, projector: Projector, bare: Bare) -> None:
        self.name = projector.projection.name
        self.events = 0
        self.ours: list[float] = []
        self.reference: list[float] = []
        self.memory = Memory()
        self._projector = projector
        self._bare = bare

    async def take(self, *, bare_first: bool) -> None:
        """One turn of each."""
        sides = (self._read, self._rebuild) if bare_first else (self._rebuild, self._read)
        counts = [await side() for side in sides]
        assert counts[0] == counts[1]
        self.events = counts[0]

    async def _rebuild(self) -> int:
        rebuilt = await self._projector.rebuild(self.memory.note)
        self.ours.append(rebuilt.seconds)
        return rebuilt.events

    async def _read(self) -> int:
        began = time.perf_counter()
        count = await self._bare.read(self._projector.projection.aggregates)
        self.reference.append(time.perf_counter() - began)
        return count


async def caught_up(projections: Projections, seq: int) -> None:
    for projector in projections.by_name.values():
        while True:
            try:
                await projector.wait_for(seq)
                break
            except ReadModelBehind:
                continue


def report_all(turns: Sequence[Turns]) -> None:
    seconds, others, events = 0.0, 0.0, 0
    for each in turns:
        ours, reference = statistics.median(each.ours), statistics.median(each.reference)
        rates = each.events / ours, each.events / reference
        report(f"rebuild.{each.name}", *rates, unit="events/s", better="higher")
        seconds, others, events = seconds + ours, others + reference, events + each.events
    report("rebuild", events / seconds, events / others, unit="events/s", better="higher")
    peaks = max(turns, key=lambda each: each.events).memory.peaks
    report("rebuild, memory at half", peaks[0.5], peaks[0.1], unit="MiB", better="lower")
    report("rebuild, memory at the end", peaks[1.0], peaks[0.1], unit="MiB", better="lower")


async def main(count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        async with (
            EmbeddedServer.start(Path(name) / "nats") as server,
            filled_log(server.access, Workload(count)) as (log, seq),
            Projections.running(log, Path(name), evaluation_path=None, on_problem=print) as projections,
            Bare.connected(server.access) as bare,
        ):
            await caught_up(projections, seq)
            turns = [Turns(projector, bare) for projector in projections.by_name.values()]
            for number in range(rounds):
                for each in turns:
                    await each.take(bare_first=bool(number % 2))
            report_all(turns)


if __name__ == "__main__":
    count, rounds = (40_000, 3) if quick(__doc__) else (1_000_000, 3)
    uvloop.run(main(count, rounds))
