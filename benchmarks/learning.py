"""How fast a node learns from its log: uses that the folds of the default settings get, from the server on.

    .venv/bin/python benchmarks/learning.py [--quick | --whole]

The log (200,000 uses of 100 models, 50,000 with --quick, 1,000,000 with --whole) is filled through
`Log.append`. Ours is `LiveFolds` with an `Appraiser` of `best_lately` and room for ten of the models, the
chances of use and the book of bets: followed, decoded and folded, as at the start of a service, but all of it
instead of the newest `REMEMBERED_USES`. The reference is the same with a fold that does nothing.

Prints lines of JSON; lower is better:

- use: microseconds of CPU time for a use.
- folds: of that, what goes into the folds, beside the 60 with which 1,000,000 take a minute.
- million: seconds of CPU time for 1,000,000 uses at this rate, beside a minute. As half a core goes into it,
  it takes twice as long.
- pause: the longest time that other work of the same process had to wait meanwhile, in milliseconds.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import uvloop

from harness import report
from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.bus.jetstream import MAX_BATCH_MESSAGES
from suite.domain.footprint import Footprint
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.envelope import Recorded
from suite.messages.events import Event, InstanceLoaded, UsageRecorded
from suite.messages.subjects import Subjects
from suite.prediction.bet_book import BetBook
from suite.prediction.chance import ChanceFold, UseChance
from suite.prediction.eviction.appraiser import Appraiser
from suite.prediction.eviction.best_lately import BestLately
from suite.prediction.live import Fold, LiveFolds
from suite.tasks import background

MODELS, ROOM, GIGABYTE = 100, 10, 1_000_000_000
MILLION, USES, QUICK_USES = 1_000_000, 200_000, 50_000
MINUTE = 60.0
PAUSE_SECONDS = 0.001


class Nothing:
    """A fold that learns nothing."""

    name = "nothing"
    aggregates = Appraiser.aggregates

    def fold(self, event: Recorded) -> None:
        """Do nothing."""


def main() -> None:
    """Fill a log, and learn from it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_const", const=QUICK_USES, dest="uses")
    sizes.add_argument("--whole", action="store_const", const=MILLION, dest="uses")
    uvloop.run(_measure(parser.parse_args().uses or USES))


async def _measure(uses: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with (
            EmbeddedServer.start(Path(directory)) as server,
            Connection.open(server.access, name="benchmark") as connection,
            Log.open(connection, Subjects(), source="/benchmark", new_id=new_id, now=utc_now) as log,
        ):
            last = await _fill(log, uses)
            limit_bytes = Footprint(ROOM * GIGABYTE * 6)
            policy = Appraiser("box", BestLately(limit_bytes), limit_bytes=limit_bytes)
            folds: list[Fold] = [policy, ChanceFold("box", UseChance()), BetBook("box")]
            reference, least = await _seconds(log, [Nothing()], last)
            ours, pause = await _seconds(log, folds, last)
            use, read = ours / uses * 1e6, reference / uses * 1e6
            report("learning.use", use, read, unit="us", better="lower")
            report("learning.folds", use - read, MINUTE, unit="us", better="lower")
            report("learning.million", ours / uses * MILLION, MINUTE, unit="s", better="lower")
            report("learning.pause", pause * 1e3, least * 1e3, unit="ms", better="lower")


async def _fill(log: Log, uses: int) -> int:
    seq = 0
    batch: list[Event] = []
    for event in _events(uses):
        batch.append(event)
        if len(batch) == MAX_BATCH_MESSAGES:
            seq = await log.append(*batch)
            batch.clear()
    return await log.append(*batch) if batch else seq


def _events(uses: int) -> Iterator[Event]:
    """Loads of all models, then uses of models whose popularity falls as by Zipf."""
    drawn = random.Random(0)
    names = [f"m{number:03}" for number in range(MODELS)]
    for name in names:
        yield InstanceLoaded(
            node="box",
            model_id=name,
            instance_id=name,
            pid=1,
            resident_bytes=drawn.randint(1, 12) * GIGABYTE,
            load_ms=drawn.uniform(2_000, 60_000),
        )
    for name in drawn.choices(names, [1 / (number + 1) for number in range(MODELS)], k=uses):
        yield UsageRecorded(model_id=name, usage_type="benchmark")


async def _seconds(log: Log, folds: list[Fold], last: int) -> tuple[float, float]:
    """The CPU time to fold everything, and the longest that a sleeping task woke up too late."""
    live = LiveFolds(log, folds, remembered_uses=last)
    longest = 0.0
    async with background() as tasks:
        begun, woke = time.process_time(), time.perf_counter()
        tasks.start_soon(live.run)
        while live.seq < last:
            await anyio.sleep(PAUSE_SECONDS)
            now = time.perf_counter()
            longest, woke = max(longest, now - woke - PAUSE_SECONDS), now
        return time.process_time() - begun, longest


if __name__ == "__main__":
    main()
