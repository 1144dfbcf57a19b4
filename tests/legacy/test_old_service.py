"""What the clients of the older services find, on each of several nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import anyio
import msgspec
import pytest
import zmq
import zmq.asyncio

from suite.bus.connection import Connection
from suite.config import LegacySettings
from suite.errors import Unavailable
from suite.identity import new_id, utc_now
from suite.legacy.service import serve_legacy
from suite.log import Log
from suite.messages.actions.status import HealthCheckReply
from suite.messages.events import ErrorReported, NodeLost
from suite.messages.subjects import Subjects
from suite.tasks import background
from support.nats import PATIENCE_SECONDS, running_nats

SUBJECTS = Subjects()


def well() -> HealthCheckReply:
    raise AssertionError("nobody asks")


@asynccontextmanager
async def logging(directory: Path) -> AsyncIterator[tuple[Connection, Log]]:
    async with (
        running_nats(directory) as (_, connection),
        Log.open(connection, SUBJECTS, source="/test", new_id=new_id, now=utc_now) as log,
    ):
        yield connection, log


@asynccontextmanager
async def error_bus() -> AsyncIterator[tuple[zmq.asyncio.Socket, LegacySettings]]:
    """Where errors are published, and the settings that say so."""
    context = zmq.asyncio.Context()
    try:
        bus = context.socket(zmq.SUB)
        bus.subscribe("ERROR:")
        address = f"tcp://127.0.0.1:{bus.bind_to_random_port('tcp://127.0.0.1')}"
        yield bus, LegacySettings(port=0, health_check_port=0, error_bus=address)
    finally:
        context.destroy(linger=0)


def reported(node: str, message: str) -> ErrorReported:
    return ErrorReported(node=node, error_type="t", message=message, severity="error")


async def test_each_node_publishes_what_goes_wrong_on_it_and_whom_it_misses(tmp_path: Path) -> None:
    async with (
        logging(tmp_path) as (connection, log),
        error_bus() as (bus, settings),
        background() as tasks,
    ):

        async def heard() -> str:
            return str(msgspec.json.decode((await bus.recv_string()).removeprefix("ERROR:"))["message"])

        serve = partial(serve_legacy, connection, log, SUBJECTS, (), settings, node="box1", health=well)
        await tasks.start(serve)
        with anyio.fail_after(PATIENCE_SECONDS):
            while not await bus.poll(50):  # the bus hears nothing until the connection is there
                await log.append(reported("box1", "begin"))
            for node in ("box2", "box1", "box3"):
                await log.append(reported(node, f"on {node}"))
            for observer in ("box3", "box1"):
                await log.append(NodeLost(node="box2", epoch=1, observer=observer))
            await log.append(reported("box1", "end"))
            messages = [message := await heard()]
            while message != "end":
                messages.append(message := await heard())
        own, lost = [message for message in messages if message not in ("begin", "end")]
        assert own == "on box1"
        assert "box2" in lost and "box1" in lost


async def test_without_the_log_it_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> NoReturn:
        raise Unavailable

    async with logging(tmp_path) as (connection, log), error_bus() as (_, settings), background() as tasks:
        monkeypatch.setattr(log, "extent", fail)
        with pytest.raises(Unavailable):
            await tasks.start(
                partial(serve_legacy, connection, log, SUBJECTS, (), settings, node="box1", health=well)
            )
