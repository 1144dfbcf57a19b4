"""A disk that fills: what cannot be stored is refused at once, and all goes on when there is space again."""

from __future__ import annotations

import random
import sys
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import anyio
import pytest

from suite.client import Client
from suite.errors import LogNotWritable, NoService, RequestTimeout, SuiteError, Unavailable, UnknownOutcome
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.events import MetricLogged
from suite.messages.subjects import Subjects
from suite.node import storage
from suite.node.storage import StorageWatch
from suite.tasks import background
from support.disks import SmallDisk, small_disk
from support.faults import KillableServer
from support.journal import generated, open_log
from support.models import tiny_model
from support.nats import eventually, running_nats
from support.service import facts, history, service_and_client

ROUNDS = 20
PROMPT_SECONDS = 12.0
"""Two for the service, and what a loaded machine adds; an append by itself is tried for 20."""


async def status(client: Client) -> str:
    return (await client.health_check()).status


async def becomes(client: Client, wanted: str) -> None:
    with anyio.fail_after(20):
        while True:
            with suppress(Unavailable, RequestTimeout, NoService):  # its server is just restarted
                if await status(client) == wanted:
                    return
            await anyio.sleep(0.05)


async def log_until_refused(client: Client) -> tuple[list[str], list[str]]:
    """Log metrics until the log says that it takes none: which are stored, and which may be."""
    stored: list[str] = []
    unknown: list[str] = []
    while True:
        metric_id = new_id()
        try:
            with anyio.fail_after(PROMPT_SECONDS):
                await client.log_performance_metric(
                    "a", "latency", 1.0, metric_id=metric_id, context="x" * 2000
                )
        except UnknownOutcome:
            unknown.append(metric_id)
        except LogNotWritable:
            return stored, unknown
        else:
            stored.append(metric_id)


async def test_a_full_disk_refuses_at_once_and_heals_by_itself(tmp_path: Path) -> None:
    models, mount = tmp_path / "models", tmp_path / "disk"
    models.mkdir()
    tiny_model(models / "tiny.gguf")
    tiny_model(models / "other.gguf")
    with small_disk(mount, megabytes=32) as disk:
        async with service_and_client(models, mount / "data") as (_, client):
            await client.load_model("tiny")

            # Nearly full: what can be refused is, what has happened is still written.
            disk.fill(leaving=512 * 1024)
            await becomes(client, "degraded")
            (problem,) = [each for each in (await client.health_check()).problems if "log" in each]
            assert "disk is full" in problem and "by itself" in problem
            with anyio.fail_after(PROMPT_SECONDS):
                with pytest.raises(LogNotWritable, match="disk is full"):
                    await client.load_model("other")
                with pytest.raises(LogNotWritable):
                    await client.log_performance_metric("a", "latency", 1.0)
                assert (await client.generate_text("tiny", "Once", max_tokens=2)).seq
                assert (await client.unload_model("tiny")).seq is not None
            disk.clear()
            await becomes(client, "HEALTHY")
            await client.load_model("tiny")

            # Full to the last byte, before anybody looks.
            disk.fill()
            stored, unknown = await log_until_refused(client)
            with anyio.fail_after(PROMPT_SECONDS), pytest.raises(LogNotWritable):
                await client.load_model("other")
            with anyio.fail_after(PROMPT_SECONDS), pytest.raises(LogNotWritable):
                await client.unload_model("tiny")
            assert await status(client) == "degraded"
            disk.clear()
            await becomes(client, "HEALTHY")
            assert (await client.load_model("other")).loaded
            times = Counter(
                event.data.metric_id
                for event in await history(client)
                if isinstance(event.data, MetricLogged)
            )
            assert all(times[metric_id] == 1 for metric_id in stored)
            assert all(times[metric_id] <= 1 for metric_id in unknown)
            told = facts(await history(client, "instance.*.tiny.>"))
            assert told[-2:] == ["instance.loaded", "instance.unloaded"]


async def until_refused(log: Log, size: int) -> str:
    """Append until the log takes no more; what it says then."""
    while True:
        with anyio.fail_after(PROMPT_SECONDS):
            try:
                await log.append(generated("x" * size))
            except UnknownOutcome:
                pass
            except LogNotWritable as error:
                return error.message


async def test_of_a_server_that_is_not_its_own_a_node_says_what_to_do(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", megabytes=16) as disk:
        async with KillableServer.start(disk.path) as server:
            async with open_log(server.access, attempt_seconds=0.3) as (connection, log):
                disk.fill(leaving=100_000)
                message = await until_refused(log, 5000)
                assert "stores nothing" in message and "restart nats-server" in message
                disk.clear()
                with pytest.raises(LogNotWritable):
                    await log.append(generated("space alone does not help"))
                where = ("--nats-url", server.access.url, "--data-dir", str(tmp_path / "data"))
                command = [sys.executable, "-m", "suite", "serve", *where]
                with anyio.fail_after(20):
                    refused = await anyio.run_process(command, check=False)
                assert refused.returncode == 1 and b"error log_not_writable:" in refused.stderr
                await server.kill()
                await server.up()
                await eventually(lambda: connection.is_connected and log.writability.problem is None)
                await log.append(generated("again"))

                # JetStream's own limit, three quarters of the disk, is told at once, as is its end.
                assert "NATS refuses them" in await until_refused(log, 900_000)
                with anyio.fail_after(PROMPT_SECONDS):
                    assert "NATS refuses them" in await until_refused(log, 900_000)


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(storage, "RESTART_PAUSE_SECONDS", 0.3)


@pytest.mark.usefixtures("watchful")
async def test_nothing_acknowledged_is_lost_in_a_disk_that_fills_again_and_again(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", megabytes=16) as disk:
        async with running_nats(disk.path) as (server, connection), AsyncExitStack() as stack:
            log = await stack.enter_async_context(
                Log.open(
                    connection, Subjects(), source="/test", new_id=new_id, now=utc_now, attempt_seconds=0.1
                )
            )
            tasks = await stack.enter_async_context(background())
            watch = StorageWatch(server, log.writability, clock=anyio.current_time, on_problem=lambda _: None)
            tasks.start_soon(watch.run)
            stored: set[str] = set()
            unknown: set[str] = set()
            for seed in range(ROUNDS):
                await one_round(random.Random(seed), disk, log, stored, unknown)
            times = Counter([event.id async for event in log.read()])
            assert all(times[each] == 1 for each in stored), [each for each in stored if times[each] != 1]
            assert all(times[each] <= 1 for each in unknown)
            assert set(times) <= stored | unknown
            assert len(stored) > ROUNDS and unknown, "the disk was never full in the middle of an append"


async def one_round(
    chance: random.Random, disk: SmallDisk, log: Log, stored: set[str], unknown: set[str]
) -> None:
    """Fill the disk while events are appended, then give it space until an append is taken."""

    async def append(name: str) -> None:
        event_id = f"{name}-{new_id()}"
        try:
            await log.append(generated("x" * chance.randrange(1, 4000)), id=event_id)
        except UnknownOutcome:
            unknown.add(event_id)
        except SuiteError:
            pass  # certainly not stored
        else:
            stored.add(event_id)

    async def append_many() -> None:
        for number in range(chance.randrange(3, 12)):
            await append(str(number))
            await anyio.sleep(chance.random() * 0.01)

    with anyio.fail_after(PROMPT_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(chance.randrange(1, 8)):
                tasks.start_soon(append_many)
            await anyio.sleep(chance.random() * 0.03)
            disk.fill(leaving=chance.choice((0, 0, 3000, 9000)))
    disk.clear()
    with anyio.fail_after(20):
        before = len(stored)
        while len(stored) == before:
            await append("again")
            await anyio.sleep(0.02)
