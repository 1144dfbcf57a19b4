"""A store that rots: what the log has lost is found and told, and no copy of it is thrown away.

`SUITE_FAULT_ROUNDS=20` makes so many rounds of each damage.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, TypeAlias

import anyio
import pytest

from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.errors import RebuildWouldLose
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.events import Event, MetricLogged, UsageRecorded
from suite.messages.subjects import Subjects
from suite.node.integrity import Integrity
from suite.projections.projections import Projections
from support.command import Command
from support.journal import loaded, started
from support.service import service_and_client

ROUNDS = int(os.environ.get("SUITE_FAULT_ROUNDS", "10"))
RETENTION = {"usage": 86_400, "metric": 90 * 86_400}

Damage: TypeAlias = Callable[[random.Random, Path], None]


class Fleet(NamedTuple):
    """A log with its read models, and what watches both."""

    log: Log
    projections: Projections
    integrity: Integrity

    @property
    def told(self) -> list[str]:
        problem = self.integrity.problem
        return [*self.projections.losses, *([problem] if problem is not None else [])]


@asynccontextmanager
async def running(directory: Path, retention: Mapping[str, int] = RETENTION) -> AsyncIterator[Fleet]:
    async with (
        EmbeddedServer.start(directory / "nats") as server,
        Connection.open(server.access, name="test") as connection,
        Log.open(
            connection, Subjects(), source="/node/box1", new_id=new_id, now=utc_now, retention=retention
        ) as log,
    ):
        await log.append(started(1))  # as every node does first
        async with Projections.running(
            log, directory, evaluation_path=None, now=utc_now, on_problem=lambda _: None
        ) as projections:
            for projector in projections.by_name.values():
                await projector.wait_for(log.newest)
            integrity = Integrity(
                connection,
                log,
                projections,
                shortest_retention=timedelta(seconds=min(retention.values())),
                clock=anyio.current_time,
                on_problem=lambda _: None,
            )
            yield Fleet(log, projections, integrity)


def an_event(number: int) -> Event:
    match number % 4:
        case 0:
            return UsageRecorded(model_id=f"m{number % 5}", usage_type="test")
        case 1:
            return loaded(number)
        case _:
            return MetricLogged(
                metric_id=f"metric {number}",
                agent_name="a",
                metric_name="latency",
                value=1.0,
                timestamp=utc_now(),
                context="x" * 200_000,  # so that the store has several blocks
            )


async def prepare(directory: Path) -> set[str]:
    """Fill a store; the ids of all events in it."""
    async with running(directory) as fleet:
        for number in range(0, 90, 5):
            await fleet.log.append(*[an_event(each) for each in range(number, number + 5)])
        for projector in fleet.projections.by_name.values():
            await projector.wait_for(fleet.log.newest)
        await fleet.integrity.check()
        assert fleet.told == []
        ids = {event.id async for event in fleet.log.read()}
    assert len(blocks(directory)) > 1
    return ids


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, set[str]]]:
    """A directory to copy, and the ids of all events in it."""
    directory = tmp_path_factory.mktemp("prepared")
    yield directory, anyio.run(prepare, directory)
    shutil.rmtree(directory)


def blocks(directory: Path) -> list[Path]:
    return sorted(directory.glob("nats/jetstream/**/SUITE/msgs/*.blk"))


def flip(chance: random.Random, directory: Path) -> None:
    """Eight bytes become others."""
    block = chance.choice([each for each in blocks(directory) if each.stat().st_size > 8])
    with block.open("r+b") as file:
        place = chance.randrange(block.stat().st_size - 8)
        file.seek(place)
        before = file.read(8)
        file.seek(place)
        file.write(bytes(byte ^ chance.randrange(1, 256) for byte in before))


def unlink(chance: random.Random, directory: Path) -> None:
    """A block is gone."""
    chance.choice(blocks(directory)).unlink()


async def test_what_has_expired_is_not_missed(tmp_path: Path) -> None:
    async with running(tmp_path, {"usage": 1}) as fleet:
        for _ in range(5):
            await fleet.log.append(loaded(1), UsageRecorded(model_id="m", usage_type="test"), loaded(2))
        for projector in fleet.projections.by_name.values():
            await projector.wait_for(fleet.log.newest)
        with anyio.fail_after(20):
            while await fleet.log.count(["usage"]):
                await anyio.sleep(0.1)
        await fleet.log.append(loaded(3))
        await fleet.integrity.check()
        assert fleet.told == []
        for projector in fleet.projections.by_name.values():
            await projector.rebuild()


@pytest.mark.parametrize("damage", [flip, unlink])
async def test_what_a_store_loses_is_told_and_no_copy_of_it_is_thrown_away(
    prepared: tuple[Path, set[str]], damage: Damage, tmp_path: Path
) -> None:
    losses: list[int] = []
    at_once = anyio.CapacityLimiter(8)

    async def take_turn(seed: int) -> None:
        async with at_once:
            losses.append(await one_round(random.Random(seed), *prepared, tmp_path / f"{seed}", damage))

    async with anyio.create_task_group() as tasks:
        for seed in range(ROUNDS):
            tasks.start_soon(take_turn, seed, name=f"seed {seed}")
    assert len([each for each in losses if each]) > ROUNDS / 2


async def one_round(
    chance: random.Random, source: Path, ids: set[str], directory: Path, damage: Damage
) -> int:
    """Spoil a copy, and see that the truth is told; how many events it lost."""
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns("batches"))
    damage(chance, directory)
    unseen = chance.random() < 0.25
    if unseen:  # nobody has a copy: the hole itself must tell
        shutil.rmtree(directory / "projections")
    async with running(directory) as fleet:
        lost = len(ids - {event.id async for event in fleet.log.read()})
        await fleet.integrity.check()
        if not unseen or damage is flip:  # what was first in the log leaves no hole
            assert bool(fleet.told) == (lost > 0), (lost, fleet.told)
        before = await held(fleet)
        refused = [name for name in fleet.projections.by_name if await would_lose(fleet, name)]
        if not unseen:
            assert (refused or kept(directory)) or not lost
            assert await held(fleet) == before
        for name in refused:
            await fleet.projections.by_name[name].rebuild(force=True)
        if not lost or refused or unseen:
            fleet.integrity.ask(accept=True)
            await fleet.integrity.check()
            assert fleet.told == []
        assert len(kept(directory)) >= len(refused)
    shutil.rmtree(directory)
    return lost


async def would_lose(fleet: Fleet, name: str) -> bool:
    try:
        await fleet.projections.by_name[name].rebuild()
    except RebuildWouldLose as error:
        assert "--force" in error.message
        return True
    return False


def kept(directory: Path) -> list[Path]:
    """The files that were set aside, for they have what the log has lost."""
    return list((directory / "projections").glob("*.lost-events-*.db"))


async def held(fleet: Fleet) -> dict[str, int]:
    """How many events each read model has."""
    ledgers = [await projector.ledger() for projector in fleet.projections.by_name.values()]
    return {each.projection: sum(each.events.values()) for each in ledgers}


async def test_a_node_says_what_its_log_has_lost_and_keeps_the_last_copy(tmp_path: Path) -> None:
    models, data = tmp_path / "models", tmp_path / "data"
    models.mkdir()
    async with service_and_client(models, data) as (service, client):
        for _ in range(20):
            last = (await client.record_usage("m", "test")).seq
        assert (await client.usage(min_seq=last)).usage[0].uses == 20
        await service.stop()
    for block in blocks(data):
        block.unlink()
    async with service_and_client(models, data) as (_, client):
        suite = Command(data)
        with anyio.fail_after(20):
            while (health := await client.health_check()).status != "degraded":
                await anyio.sleep(0.05)
        assert "20 that the read model usage has" in " ".join(health.problems)
        refused = await suite.run("rebuild", "usage")
        assert refused.returncode == 1 and "rebuild_would_lose" in refused.stderr
        assert (await client.usage()).usage[0].uses == 20
        await suite.output("rebuild", "--force", "--json")
        assert (await client.usage()).usage == ()
        assert len(kept(data)) >= 1
        with anyio.fail_after(20):
            while (await client.health_check()).status != "HEALTHY":
                await anyio.sleep(0.05)
        assert "events_lost" in [each.error_type for each in (await client.get_errors()).errors]
