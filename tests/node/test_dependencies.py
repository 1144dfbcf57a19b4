"""A start waits for the services it needs, says which, and gives up clearly."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import nats
import pytest
from nats.micro import add_service

from suite import __version__
from suite.bus.connection import Connection, Message
from suite.bus.service import Service
from suite.domain.breaker import Policy
from suite.errors import AccessDenied, DependencyMissing
from suite.identity import new_id, utc_now
from suite.messages.subjects import Subjects
from suite.node import dependencies
from suite.node.breakers import Breakers
from suite.node.dependencies import wait_for_dependencies, watch_dependencies
from suite.tasks import background
from support.faults import KillableServer
from support.nats import eventually, running_nats


@asynccontextmanager
async def external_nats(directory: Path) -> AsyncIterator[tuple[KillableServer, Connection]]:
    async with (
        KillableServer.start(directory, jetstream=False) as server,
        Connection.open(server.access, name="test") as connection,
    ):
        yield server, connection


@asynccontextmanager
async def micro_service(server: KillableServer, name: str) -> AsyncIterator[None]:
    """A service that is not ours, by nats-py's own framework."""
    client = await nats.connect(server.access.url)
    service = await add_service(client, name=name, version="1.0.0")
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await service.stop()
            await client.close()


async def test_what_answers_already_is_not_waited_for(tmp_path: Path) -> None:
    async with (
        external_nats(tmp_path) as (server, connection),
        micro_service(server, "CoreOrchestrator"),
        Service.serve(
            connection, (), None, subjects=Subjects(), version=__version__, metadata={}, new_id=new_id
        ),
    ):
        names = ("CoreOrchestrator", "suite", "suite")
        await wait_for_dependencies(connection, names, seconds=0, embedded=False)


async def test_it_waits_until_the_last_has_come(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "suite.node")
    done: list[str] = []
    async with external_nats(tmp_path) as (server, connection), anyio.create_task_group() as tasks:

        async def wait() -> None:
            names = ("First", "Second")
            await wait_for_dependencies(connection, names, seconds=30, embedded=False)
            done.append("waited")

        tasks.start_soon(wait)
        await eventually(lambda: "waiting for First, Second" in caplog.text)
        async with micro_service(server, "First"):
            await eventually(lambda: "First answers" in caplog.text)
            assert not done
            async with micro_service(server, "Second"):
                await eventually(lambda: done)
    assert server.access.url in caplog.text


async def test_after_its_time_it_names_what_has_not_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "suite.node")
    ticks = itertools.count(0.0, 2.0)
    async with external_nats(tmp_path) as (server, connection), micro_service(server, "First"):
        with pytest.raises(DependencyMissing) as caught:
            await wait_for_dependencies(
                connection,
                ("First", "CoreOrchestrator"),
                seconds=25,
                embedded=False,
                clock=lambda: next(ticks),
            )
    message = caught.value.message
    assert "CoreOrchestrator" in message
    assert "First" not in message
    assert "25 s" in message
    assert "wait_for_dependencies" in message
    assert (caught.value.code, caught.value.status) == ("dependency_missing", 503)
    said = [record for record in caplog.records if record.getMessage().startswith("waiting for")]
    assert len(said) > 1
    assert "First" not in said[-1].getMessage()


async def test_who_listens_and_does_not_answer_is_not_there(tmp_path: Path) -> None:
    async def keep_silent(message: Message) -> None:
        del message

    async with external_nats(tmp_path) as (_, connection):
        await connection.subscribe("$SRV.PING.CoreOrchestrator", keep_silent)
        with pytest.raises(DependencyMissing, match="CoreOrchestrator"):
            await wait_for_dependencies(connection, ("CoreOrchestrator",), seconds=0, embedded=False)


async def test_nats_may_go_and_come_back_meanwhile(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "suite.node")
    async with external_nats(tmp_path) as (server, connection):
        await server.kill()
        await eventually(lambda: not connection.is_connected)
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                await wait_for_dependencies(connection, ("CoreOrchestrator",), seconds=30, embedded=False)
                tasks.cancel_scope.cancel()

            tasks.start_soon(wait)
            await eventually(lambda: "waiting for CoreOrchestrator" in caplog.text)
            await server.up()
            async with micro_service(server, "CoreOrchestrator"):
                await anyio.sleep_forever()
    assert "CoreOrchestrator answers" in caplog.text


async def test_on_the_nodes_own_server_it_warns_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_nats(tmp_path) as (_, connection):
        await wait_for_dependencies(connection, ("CoreOrchestrator",), seconds=60, embedded=True)
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 1
        assert "CoreOrchestrator" in warnings[0]
        caplog.clear()
        await wait_for_dependencies(connection, (), seconds=60, embedded=True)
        assert not caplog.records
        with pytest.raises(DependencyMissing):  # the suite's own user may ask there
            await wait_for_dependencies(connection, ("CoreOrchestrator",), seconds=0, embedded=False)


async def test_one_that_may_not_be_asked_counts_as_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "WATCH_SECONDS", 0.02)
    breakers = Breakers("box1", now=utc_now, clock=time.monotonic)
    async with external_nats(tmp_path) as (_, connection), background() as tasks:

        async def refuse(*_: object, **__: object) -> Message:
            raise AccessDenied("this user may not send on $SRV.PING.CoreOrchestrator")

        monkeypatch.setattr(connection, "request", refuse)
        tasks.start_soon(watch_dependencies, connection, ("CoreOrchestrator",), breakers)
        await eventually(lambda: [each.is_closed for each in breakers] == [False])
        (info,) = breakers.infos()
        assert "may not send" in info.reason


async def test_one_that_goes_later_is_told_and_seen_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(
        dependencies, "POLICY", Policy(failures=2, first_pause_seconds=0.05, longest_pause_seconds=0.1)
    )
    breakers = Breakers("box1", now=utc_now, clock=time.monotonic)
    async with external_nats(tmp_path) as (server, connection), background() as tasks:
        async with micro_service(server, "CoreOrchestrator"):
            tasks.start_soon(watch_dependencies, connection, ("CoreOrchestrator",), breakers)
            await anyio.sleep(0.1)
            (breaker,) = breakers
            assert breaker.is_closed
        await eventually(lambda: not breaker.is_closed)
        (info,) = breakers.infos()
        assert (info.kind, info.name, info.failures >= 2) == ("dependency", "CoreOrchestrator", True)
        assert "has not answered a ping" in info.reason
        async with micro_service(server, "CoreOrchestrator"):
            await eventually(lambda: breaker.is_closed)
        facts = [event.fact for event in breaker.take_events()]
        assert (facts[0], facts[-2:]) == ("opened", ["half_opened", "closed"])


async def test_without_nats_nobody_is_said_to_be_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "WATCH_SECONDS", 0.02)
    breakers = Breakers("box1", now=utc_now, clock=time.monotonic)
    async with external_nats(tmp_path) as (server, connection), background() as tasks:
        with suppress(ConnectionResetError):  # of the service's own connection
            async with micro_service(server, "CoreOrchestrator"):
                tasks.start_soon(watch_dependencies, connection, ("CoreOrchestrator",), breakers)
                await server.kill()
                await eventually(lambda: not connection.is_connected)
                await anyio.sleep(0.2)
                assert [each.is_closed for each in breakers] == [True]
