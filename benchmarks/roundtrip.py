"""The round trip of health_check through `suite serve`, against the same bytes from a bare responder.

    .venv/bin/python benchmarks/roundtrip.py [--quick]

Each side is a process of its own, both on the nats-server of `suite serve`, both on uvloop; the client is a
bare nats-py client for both. Prints the median round trip with one request in flight (lower is better) and
requests per second with 64 in flight (higher is better).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE

import anyio
import nats
from nats.aio.client import Client

from harness import in_turns, quick, report
from suite.bus import parent
from suite.cli.child import serve_in_child

HEALTH_CHECK = "suite.action.health_check"
BARE = "suite.bare"
IN_FLIGHT = 64

RESPONDER = """
import asyncio, sys, uvloop, nats

async def main():
    url, subject, answer = sys.argv[1], sys.argv[2], sys.argv[3].encode()
    client = await nats.connect(url)

    async def respond(message):
        await message.respond(answer)

    await client.subscribe(subject, cb=respond)
    await client.flush()
    await asyncio.sleep(0.1)
    print("ready", flush=True)
    await asyncio.Event().wait()

uvloop.run(main())
"""


@asynccontextmanager
async def bare_responder(url: str, answer: bytes) -> AsyncIterator[None]:
    command = parent.command(sys.executable, "-c", RESPONDER, url, BARE, answer.decode())
    async with await anyio.open_process(command, stdin=DEVNULL, stdout=PIPE, stderr=None) as process:
        assert process.stdout is not None
        await process.stdout.receive()
        try:
            yield
        finally:
            process.kill()


@asynccontextmanager
async def both_sides() -> AsyncIterator[Client]:
    """`suite serve` and the bare responder on its server, and a client that may ask both."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "models").mkdir()
        async with serve_in_child(directory, ["--models-dir", str(directory / "models")]):
            url = suite_url(directory)
            client = await nats.connect(url, inbox_prefix="_INBOX.suite")
            answer = (await client.request(HEALTH_CHECK, b"{}", timeout=5)).data
            async with bare_responder(url, answer):
                yield client
            await client.close()


def suite_url(directory: Path) -> str:
    """With the suite's own credentials: only they may answer on a subject of their choice."""
    address = json.loads((directory / "connection.json").read_bytes())["url"]
    configuration = json.loads((directory / "nats" / "nats-server.conf").read_bytes())
    users = configuration["accounts"]["SUITE"]["users"]
    user = next(each for each in users if each["user"] == "suite")
    return str(address).replace("://", f"://{user['user']}:{user['password']}@")


async def p50_us(client: Client, subject: str, requests: int) -> float:
    times = []
    for _ in range(requests):
        began = time.perf_counter()
        await client.request(subject, b"{}", timeout=5)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


async def requests_per_second(client: Client, subject: str, requests: int) -> float:
    async def ask() -> None:
        for _ in range(requests // IN_FLIGHT):
            await client.request(subject, b"{}", timeout=5)

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.start_soon(ask)
    return requests // IN_FLIGHT * IN_FLIGHT / (time.perf_counter() - began)


async def main(short: bool) -> None:
    turns, single, many = (7, 300, 64 * 50) if short else (15, 1000, 64 * 150)
    async with both_sides() as client:
        ours, reference = await in_turns(
            lambda: p50_us(client, HEALTH_CHECK, single), lambda: p50_us(client, BARE, single), turns
        )
        report("health_check round trip, p50", ours, reference, unit="us", better="lower")
        ours, reference = await in_turns(
            lambda: requests_per_second(client, HEALTH_CHECK, many),
            lambda: requests_per_second(client, BARE, many),
            turns,
        )
        report("health_check, 64 in flight", ours, reference, unit="requests/s", better="higher")


if __name__ == "__main__":
    os.environ.pop("SUITE_TRACE", None)
    anyio.run(main, quick(__doc__), backend_options={"use_uvloop": True})
