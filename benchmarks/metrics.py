"""Logging a sample of a metric: an action over NATS, and the old way that opens SQLite for each.

    .venv/bin/python benchmarks/metrics.py [--quick]

Ours is `log_performance_metric` as a client has it carried out: JSON request, an event that is synced to
disk, JSON reply, while the service's read models follow. Service, nats-server and client are processes of
their own, the client is on uvloop. The reference is what the older service did for each call, without the
bus that was before it: open the database, insert into performance_metrics, commit, close, with sqlite3's
defaults (rollback journal, synchronous FULL), on the same disk. SQLite has one writer at a time, so 64
callers are best served one after the other: threads that wait for each other are no faster. That is
how the reference is measured for 1 in flight and for 64. They take turns. Prints samples per second with 1
in flight and with 64, higher is better.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from harness import in_turns, quick, report
from service import running_service
from suite.client import Client
from suite.identity import new_id, utc_now

AGENT, METRIC = "agent-01", "response_time_ms"
CONTEXT = {"model": "smollm2", "batch": 8}
CONTEXT_TEXT = '{"model":"smollm2","batch":8}'

TABLE = """
CREATE TABLE performance_metrics (
    metric_id TEXT PRIMARY KEY, agent_name TEXT, metric_name TEXT, value REAL, timestamp TIMESTAMP,
    context TEXT
)
"""


async def ours(client: Client, *, in_flight: int, seconds: float) -> float:
    """Samples per second, with that many waiting at any time."""
    count, end = 0, time.perf_counter() + seconds

    async def work() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await client.log_performance_metric(AGENT, METRIC, 12.5, context=CONTEXT)
            count += 1

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(in_flight):
            tasks.start_soon(work)
    return count / (time.perf_counter() - began)


class OldWay:
    """A database as the older service had it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(TABLE)

    def insert(self) -> None:
        """What it did for one call."""
        row = (new_id(), AGENT, METRIC, 12.5, utc_now().isoformat(sep=" "), CONTEXT_TEXT)
        db = sqlite3.connect(self._path)
        db.execute("INSERT INTO performance_metrics VALUES (?, ?, ?, ?, ?, ?)", row)
        db.commit()
        db.close()

    def rate(self, seconds: float) -> float:
        """Samples per second, one after the other."""
        count, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            self.insert()
            count += 1
        return count / took


@contextmanager
def old_way() -> Iterator[OldWay]:
    with tempfile.TemporaryDirectory() as directory:
        yield OldWay(Path(directory) / "model_evaluation.db")


async def main(turns: int, seconds: float) -> None:
    with old_way() as old:

        async def reference() -> float:
            return await anyio.to_thread.run_sync(old.rate, seconds)

        async with running_service() as (client, _):
            for in_flight in (1, 64):

                async def measure(in_flight: int = in_flight) -> float:
                    return await ours(client, in_flight=in_flight, seconds=seconds)

                rates = await in_turns(measure, reference, turns)
                report(
                    f"log_performance_metric, {in_flight} in flight",
                    *rates,
                    unit="samples/s",
                    better="higher",
                )


if __name__ == "__main__":
    turns, seconds = (7, 0.8) if quick(__doc__) else (11, 2.0)
    anyio.run(main, turns, seconds, backend_options={"use_uvloop": True})
