"""What the views over time ask for, with a million requests of 1,000 models in a year.

    .venv/bin/python benchmarks/over_time.py [--quick]

Made-up uses (1,000,000; 50,000 with --quick), loads and bets are folded into the files of the read models as
in use, but without NATS. Then each action's query is asked over the read model's own connections, for windows
that end with the year. Prints the median of five in milliseconds, and the bytes of each reply. The reference
for `requests` are exact percentiles by SQL over the same rows.

Also how long the folding takes, in microseconds of computing for each use.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import aiosqlite
import anyio
import msgspec

from harness import quick
from suite.messages.actions.statistics import (
    GetBetsRequest,
    GetBetStatisticsRequest,
    GetRequestStatisticsRequest,
    GetResidencyTimelineRequest,
)
from suite.messages.envelope import Recorded
from suite.messages.events import (
    Event,
    Generated,
    InstanceLoaded,
    InstanceLoadStarted,
    InstanceUnloaded,
    PredictionMade,
    PredictionSettled,
)
from suite.messages.times import to_sql
from suite.projections.bets import bet_statistics, bets
from suite.projections.file import ProjectionFile
from suite.projections.history import HistoryProjection
from suite.projections.projection import Projection
from suite.projections.requests import request_statistics
from suite.projections.stays import timeline
from suite.projections.usage import UsageProjection

MODELS: Final = [f"model-{number:04}" for number in range(1000)]
WEIGHTS: Final = [1 / (number + 1) for number in range(len(MODELS))]
END: Final = datetime(2026, 11, 1, tzinfo=UTC)
YEAR: Final = timedelta(days=365)
EXPIRES: Final = END + YEAR
WINDOWS: Final = {
    "an hour": timedelta(hours=1),
    "a day": timedelta(days=1),
    "30 days": timedelta(days=30),
    "a year": YEAR,
}
BATCH: Final = 2000
LOADS_IN: Final = 10
"""One in so many uses loads a model."""
TURNS: Final = 5


def recorded(seq: int, at: datetime, event: Event) -> Recorded:
    """An event as the log has it."""
    return Recorded(
        seq=seq,
        subject="",
        id=f"{seq:032x}",
        type=event.type,
        source="/node/box1",
        time=at,
        data=event,
        expires=EXPIRES if isinstance(event, Generated) else None,
    )


def used(model_id: str) -> Generated:
    """A use with times as they are spread in reality: few are very long."""
    prompt = int(random.lognormvariate(6, 1))
    return Generated(
        model_id=model_id,
        node="box1",
        instance_id="i",
        generation_id="g",
        prompt_tokens=prompt,
        reused_tokens=prompt // 3,
        completion_tokens=100,
        queue_ms=1.0,
        time_to_first_token_ms=random.lognormvariate(5, 1),
        generation_ms=random.lognormvariate(8, 1),
        outcome="stop",
        waited_ms=0.5,
    )


def uses(count: int) -> Iterator[Recorded]:
    """Uses spread over the year."""
    for seq, model_id in enumerate(random.choices(MODELS, WEIGHTS, k=count), 1):
        yield recorded(seq, END - YEAR + YEAR * (seq / (count + 1)), used(model_id))


def residency(count: int) -> Iterator[Recorded]:
    """So many loads, each with its end before the next load of its model, and a bet for each tenth."""
    seq = 0
    for number, model_id in enumerate(random.choices(MODELS, WEIGHTS, k=count)):
        at = END - YEAR + YEAR * (number / (count + 1))
        for after, event in enumerate(_life(model_id, str(number), with_bet=number % 10 == 0)):
            seq += 1
            yield recorded(seq, at + timedelta(seconds=20 * after), event)


def _life(model_id: str, id: str, *, with_bet: bool) -> Iterator[Event]:
    chance = random.random()
    if with_bet:
        yield PredictionMade(
            model_id=model_id,
            node="box1",
            prediction_id=id,
            chance=chance,
            estimate=chance,
            horizon_seconds=1800.0,
            saves_seconds=5.0,
            costs_seconds=1.0,
            bytes=10**9,
        )
    yield InstanceLoadStarted(
        node="box1", model_id=model_id, instance_id=id, reserved_bytes=10**9, context_tokens=4096
    )
    yield InstanceLoaded(
        node="box1", model_id=model_id, instance_id=id, pid=1, resident_bytes=10**9, load_ms=9e3
    )
    if with_bet:
        is_hit = random.random() < chance
        yield PredictionSettled(
            model_id=model_id,
            node="box1",
            prediction_id=id,
            outcome="hit" if is_hit else "waste",
            reason="used" if is_hit else "not_used",
            chance=chance,
            used=is_hit,
            saved_seconds=5.0 * is_hit,
            byte_seconds=1e12,
        )
    yield InstanceUnloaded(
        node="box1", model_id=model_id, instance_id=id, reason="evicted", freed_bytes=10**9, evicted_for="x"
    )


async def folded(path: Path, projection: Projection, events: Iterator[Recorded]) -> None:
    """Fold events into a file, and say what that took."""
    count, seconds = 0, 0.0
    batch: list[Recorded] = []
    async with ProjectionFile.open(path, projection, "made up") as file:
        for event in events:
            batch.append(event)
            if len(batch) == BATCH:
                began = time.process_time()
                await file.fold(batch)
                seconds += time.process_time() - began
                count += len(batch)
                batch = []
    size = (await anyio.Path(path).stat()).st_size / 1e6
    print(
        f"{projection.name}: {count:,} events, {1e6 * seconds / count:.0f} us each, {size:,.0f} MB",
        flush=True,
    )


async def timed(name: str, ask: Callable[[], Awaitable[msgspec.Struct]]) -> None:
    """Ask several times, and print the median and the size of the reply."""
    taken: list[float] = []
    for _ in range(TURNS):
        began = time.perf_counter()
        reply = await ask()
        taken.append(1000 * (time.perf_counter() - began))
    size = len(msgspec.json.encode(reply)) / 1000
    print(f"{name:42} {statistics.median(taken):9.1f} ms {size:9.1f} KB", flush=True)


async def exact(db: aiosqlite.Connection, since: datetime) -> msgspec.Struct:
    """The reference: exact percentiles of all requests of a window, by SQL."""
    rows = await db.execute_fetchall(
        "SELECT total_us FROM usage WHERE at >= ? AND total_us IS NOT NULL ORDER BY total_us",
        (to_sql(since),),
    )
    times = [time_us for (time_us,) in rows]
    return Percentiles(p95_us=times[int(0.95 * (len(times) - 1))] if times else 0)


class Percentiles(msgspec.Struct):
    """What the reference finds."""

    p95_us: int


async def main() -> None:
    """Fold, and ask."""
    count = 50_000 if quick(__doc__) else 1_000_000
    random.seed(1)
    with tempfile.TemporaryDirectory() as directory:
        usage, history = Path(directory) / "usage.db", Path(directory) / "history.db"
        await folded(usage, UsageProjection(), uses(count))
        await folded(history, HistoryProjection(), residency(count // LOADS_IN))
        async with aiosqlite.connect(usage) as db, aiosqlite.connect(history) as past:
            for name, span in WINDOWS.items():
                await ask_all(db, past, name, END - span)


async def ask_all(db: aiosqlite.Connection, past: aiosqlite.Connection, name: str, since: datetime) -> None:
    """Ask everything about one window."""
    begin = since.timestamp()
    requests = GetRequestStatisticsRequest(since=begin)
    await timed(f"requests, {name}", lambda: request_statistics(db, requests, END))
    await timed(f"requests, {name}, reference", lambda: exact(db, since))
    of_one = GetRequestStatisticsRequest(since=begin, model_id=MODELS[0])
    await timed(f"requests of the busiest model, {name}", lambda: request_statistics(db, of_one, END))
    lanes = GetResidencyTimelineRequest(since=begin)
    await timed(f"timeline, 200 lanes, {name}", lambda: timeline(past, lanes, END))
    await timed(f"bets, {name}", lambda: bet_statistics(past, GetBetStatisticsRequest(since=begin), END))
    await timed(f"a page of bets, {name}", lambda: bets(past, GetBetsRequest(since=begin)))


if __name__ == "__main__":
    anyio.run(main)
