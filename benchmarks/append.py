"""Durable appends per second, against bare awaited ``js.publish`` on the same server.

    .venv/bin/python benchmarks/append.py [--quick]

The server syncs every write to disk before it answers (``sync_interval: always``). Both sides publish the
same bodies under the same headers from one process and one event loop (uvloop, as the suite runs), over a
connection of its own each, into a file stream of its own each; they take turns, and the medians of all
turns are compared. Ours is ``Log.append``, from the typed event to its sequence, with the mirror for readers
kept up with it, which the other side does not have. Prints one line of JSON
for 1 append in flight and one for 64, higher is better; on stderr, what the disk takes for a sync and for
removing a synced file, which an atomic batch pays six times.

``--directory`` chooses the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import nats
import uvloop
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.log.mirror import keep_mirror
from suite.messages.actor import NatsAccess
from suite.messages.envelope import Envelope
from suite.messages.events import Generated
from suite.messages.subjects import Subjects
from suite.tasks import background

SUBJECTS = Subjects()
EVENT = Generated(
    model_id="smollm2",
    node="box1",
    instance_id="01890a5d-ac96-774b-bcce-b302099a8057",
    generation_id="01890a5d-ac96-774b-bcce-b302099a8058",
    prompt_tokens=40,
    reused_tokens=32,
    completion_tokens=12,
    queue_ms=0.25,
    time_to_first_token_ms=18.5,
    generation_ms=120.75,
    outcome="stop",
)

Append = Callable[[], Awaitable[object]]


@asynccontextmanager
async def ours(server: EmbeddedServer) -> AsyncIterator[Append]:
    async with (
        Connection.open(server.access, name="ours") as connection,
        Log.open(connection, SUBJECTS, source="/node/box1", new_id=new_id, now=utc_now) as log,
        background() as tasks,
    ):
        await tasks.start(partial(keep_mirror, connection, server.mirror, SUBJECTS, new_id=new_id))
        yield lambda: log.append(EVENT)


@asynccontextmanager
async def bare(access: NatsAccess) -> AsyncIterator[Append]:
    client = await nats.connect(
        access.url, user=access.user, password=access.password, inbox_prefix=access.inbox_prefix
    )
    jetstream: JetStreamContext = client.jetstream()
    await jetstream.add_stream(StreamConfig(name="BARE", subjects=[f"{SUBJECTS.root}.bare.>"]))
    envelope = Envelope(id=new_id(), source="/node/box1", time=utc_now(), data=EVENT)
    headers, body = envelope.headers(), envelope.body()
    subject = envelope.subject(SUBJECTS).replace(".event.", ".bare.")

    async def publish() -> object:
        id = new_id()
        return await jetstream.publish(subject, body, headers={**headers, "Nats-Msg-Id": id, "ce-id": id})

    try:
        yield publish
    finally:
        await client.close()


async def rate(append: Append, *, in_flight: int, seconds: float) -> float:
    """Appends per second, with that many waiting at any time."""
    count, end = 0, time.perf_counter() + seconds

    async def work() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await append()
            count += 1

    since = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(in_flight):
            tasks.start_soon(work)
    return count / (time.perf_counter() - since)


def disk(directory: str) -> dict[str, float]:
    """Milliseconds that a sync takes on this disk, and removing a synced file."""
    syncs, removals = [], []
    for number in range(20):
        path = Path(directory) / f"probe{number}"
        with path.open("wb") as file:
            file.write(b"x" * 2000)
            file.flush()
            since = time.perf_counter()
            os.fsync(file.fileno())
            syncs.append(time.perf_counter() - since)
        since = time.perf_counter()
        path.unlink()
        removals.append(time.perf_counter() - since)
    return {
        "sync_ms": round(1000 * statistics.median(syncs), 3),
        "remove_ms": round(1000 * statistics.median(removals), 3),
    }


async def main(*, turns: int, seconds: float, parent: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        print(json.dumps(disk(directory)), file=sys.stderr)
        async with (
            EmbeddedServer.start(Path(directory) / "nats") as server,
            ours(server) as append,
            bare(server.access) as publish,
        ):
            for in_flight in (1, 64):
                measured: dict[str, list[float]] = {"ours": [], "reference": []}
                for side in (append, publish):  # warm up, unmeasured
                    await rate(side, in_flight=in_flight, seconds=seconds / 2)
                for _ in range(turns):
                    measured["ours"].append(await rate(append, in_flight=in_flight, seconds=seconds))
                    measured["reference"].append(await rate(publish, in_flight=in_flight, seconds=seconds))
                our, reference = (statistics.median(rates) for rates in measured.values())
                print(
                    json.dumps(
                        {
                            "name": f"append_{in_flight}_in_flight",
                            "ours": round(our, 1),
                            "reference": round(reference, 1),
                            "ratio": round(our / reference, 3),
                            "unit": "events/s",
                            "better": "higher",
                        }
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under 45 s")
    parser.add_argument("--directory", help="where the server keeps its store")
    options = parser.parse_args()
    turns, seconds = (7, 0.6) if options.quick else (11, 1.5)
    uvloop.run(main(turns=turns, seconds=seconds, parent=options.directory))
