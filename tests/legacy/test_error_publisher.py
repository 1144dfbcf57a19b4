"""Errors are published as the older services did, to whoever listens and to nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest
import zmq
import zmq.asyncio

from suite.errors import InvalidConfiguration, PortTaken
from suite.legacy.error_publisher import ErrorPublisher
from support.nats import PATIENCE_SECONDS

EXPECTED = {
    "error_type": "load_failed",
    "message": "llama.cpp: ä\n",
    "severity": "error",
    "timestamp": 1700000000.5,
    "agent": "ModelManagerSuite",
    "port": 7011,
}


@asynccontextmanager
async def subscriber() -> AsyncIterator[zmq.asyncio.Socket]:
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, b"ERROR:")
    try:
        yield socket
    finally:
        context.destroy(linger=0)


async def first_heard(publisher: ErrorPublisher, socket: zmq.asyncio.Socket) -> Any:
    """Publish until the subscription has come through, as nobody is waited for."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            await publisher.publish(
                "load_failed", "llama.cpp: ä\n", "error", 1700000000.5, "ModelManagerSuite"
            )
            if await socket.poll(50):
                text = await socket.recv_string()
                assert text.startswith("ERROR:")
                return msgspec.json.decode(text.removeprefix("ERROR:"))


async def test_subscribers_get_the_error() -> None:
    async with (
        ErrorPublisher.open(host="127.0.0.1", errors_port=0, port=7011) as publisher,
        subscriber() as first,
        subscriber() as second,
    ):
        for socket in (first, second):
            socket.connect(f"tcp://127.0.0.1:{publisher.errors_port}")
            assert await first_heard(publisher, socket) == EXPECTED


async def test_it_is_sent_to_an_error_bus() -> None:
    async with subscriber() as bus:
        address = f"tcp://127.0.0.1:{bus.bind_to_random_port('tcp://127.0.0.1')}"
        async with ErrorPublisher.open(
            host="127.0.0.1", errors_port=7150, error_bus=address, port=7011
        ) as publisher:
            assert publisher.errors_port is None
            assert await first_heard(publisher, bus) == EXPECTED


async def test_nobody_and_the_slow_do_not_hold_it_up() -> None:
    async with (
        ErrorPublisher.open(host="127.0.0.1", errors_port=0, port=7011) as publisher,
        subscriber() as slow,
    ):
        slow.connect(f"tcp://127.0.0.1:{publisher.errors_port}")
        await first_heard(publisher, slow)
        await publish_many(publisher)
    nowhere = "tcp://127.0.0.1:1"
    async with ErrorPublisher.open(
        host="127.0.0.1", errors_port=7150, error_bus=nowhere, port=7011
    ) as publisher:
        await publish_many(publisher)


async def publish_many(publisher: ErrorPublisher) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        for _ in range(5000):
            await publisher.publish("x", "m" * 1000, "info", 0.0, "a")


async def test_what_cannot_be_listened_on_or_connected_to_is_refused_by_its_setting() -> None:
    async with ErrorPublisher.open(host="127.0.0.1", errors_port=0, port=7011) as publisher:
        port = publisher.errors_port
        assert port is not None
        with pytest.raises(PortTaken, match=r"legacy\.errors_port"):
            async with ErrorPublisher.open(host="127.0.0.1", errors_port=port, port=7011):
                pass
    for address in ("", "somewhere", "tcp://", "tcp://host", "tcp://host:port"):
        with pytest.raises(InvalidConfiguration, match=r"legacy\.error_bus"):
            async with ErrorPublisher.open(host="127.0.0.1", errors_port=0, error_bus=address, port=7011):
                pass
