"""Whatever others put under `suite.event.>`, a node goes on, says so once, and counts each event once."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import suite
from suite.bus.connection import Connection
from suite.client import Client
from suite.errors import InvalidRequest
from suite.log.stream import wanted_config
from support.faults import KillableServer
from support.models import tiny_model
from support.service import Serving, serving
from support.strangers import STRANGE, Strange, Stranger, cloud_event

SUBJECTS = (
    "node.box1.stopped",
    "node.box1.lost",
    "node.box1.whatever",
    "node.box2.started",
    "node",
    "instance.box1.tiny.loaded",
    "instance.box1.tiny.load_started",
    "instance.box1.tiny.unloaded",
    "model.tiny.registered",
    "usage.tiny.generated",
    "metric.a.logged",
    "evaluation.tiny.logged",
    "error.error.reported",
    "whatever",
    "whatever.more.of.it",
    "what\udcff",
    "usage.\udcff.generated",
    "node.box1.\x0b\x1b[31m",
)


async def raw(connection: Connection, seq: int) -> tuple[str, Strange]:
    """A stored message, without the id by which the server would know it again for two minutes."""
    asked = json.dumps({"seq": seq}).encode()
    answer = await connection.request("$JS.API.STREAM.MSG.GET.SUITE", asked, timeout=5)
    message: dict[str, Any] = json.loads(answer.data)["message"]
    lines = base64.b64decode(message["hdrs"]).split(b"\r\n")
    kept = b"\r\n".join(line for line in lines if not line.startswith((b"Nats-Msg-Id", b"Nats-Expected")))
    return message["subject"], Strange(kept, base64.b64decode(message["data"]))


async def work(client: Client) -> None:
    """All that appends: loads, generations, usage, metrics, evaluations, unloads."""
    await client.load_model("tiny")
    await client.generate_text("tiny", "a", max_tokens=2)
    await client.record_usage("tiny")
    await client.log_performance_metric("a", "m", 1.0)
    await client.log_model_evaluation("tiny", "c", 0.5)
    await client.unload_model("tiny")


async def figures(client: Client) -> tuple[object, ...]:
    """What the read models count."""
    seq = (await client.record_usage("other")).seq
    await client.usage(min_seq=seq)
    fleet = await client.get_fleet(min_seq=seq)
    stats = await client.get_stats()
    uses = {each.model_id: each.uses for each in (await client.usage(min_seq=seq)).usage}
    return uses["tiny"], fleet.models, stats.metrics.models_loaded, stats.metrics.models_unloaded


async def foreign(client: Client, count: int) -> str:
    """Where the first is, once so many are told of."""
    with anyio.fail_after(30):
        while (health := await client.health_check()).foreign_messages != count:
            assert health.foreign_messages < count, health
            await anyio.sleep(0.1)
    assert health.status == "HEALTHY"
    assert (await client.get_stats()).commands_processed
    reported = [each for each in (await client.get_errors()).errors if each.error_type == "foreign_message"]
    assert len(reported) == 1
    assert health.first_foreign_message is not None
    return health.first_foreign_message


async def not_held_up(client: Client) -> None:
    """Two hundred that ask for what will never come keep nobody waiting (the client waits 10 s)."""

    async def ask() -> None:
        with pytest.raises(InvalidRequest, match="min_seq"):
            await client.summary("m", min_seq=10**15)

    async with anyio.create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(ask)
        await anyio.lowlevel.checkpoint()
        total = (await client.summary("m")).total
        assert total is not None and total.count == 2


async def ended(service: Serving) -> str:
    """The node ends by itself, as one that failed; what it said."""
    with anyio.fail_after(30):
        assert await service.process.wait() == 1
    return service.errors.read_text()


async def test_a_node_survives_whatever_others_put_into_the_log(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    tiny_model(models / "tiny.gguf")
    async with KillableServer.start(tmp_path) as server, Stranger.connected(server.port) as stranger:
        url = server.access.url
        start = (models, tmp_path / "data", "--nats-url", url, "--node", "box1")
        async with serving(*start) as service, suite.connect(url) as client:
            await work(client)
            for subject in SUBJECTS:
                for message in STRANGE:
                    await stranger.publish(f"suite.event.{subject}", message)
            later = Strange(cloud_event(b"suite.car.parked.v1"), b"of a later version")
            await stranger.publish("suite.event.car.x.parked", later)
            await work(client)
            count = len(SUBJECTS) * len(STRANGE)
            first = await foreign(client, count)
            assert "suite.event.node.box1.stopped" in first
            await not_held_up(client)
            for message in STRANGE:
                await stranger.publish("suite.action.\udcff", message, reply="_INBOX.\udcff.\x0b")
                await stranger.publish("suite.action.health_check", message, reply="_INBOX.\udcff")
                await stranger.publish("suite.actor.box1.ping", message, reply="_INBOX.\x0b")
                await stranger.publish("$SRV.PING", message, reply="_INBOX.\x0c")
            before = await figures(client)
            async with Connection.open(server.access, name="t") as connection:
                events = [event async for event in client.events()]
                for event in events:
                    if event.type != "suite.node.started.v1":
                        subject, message = await raw(connection, event.seq)
                        await stranger.publish(subject, message)
            assert await figures(client) == before
            assert "is lost" not in service.errors.read_text()
        async with serving(*start) as service, suite.connect(url) as client:
            await work(client)
            assert await foreign(client, count) == first
            await stranger.publish("suite.event.node.box1.started", STRANGE[1])
            assert "error fenced: message" in (words := await ended(service))
            assert "is no event of the suite" in words and "start the node again" in words
            assert "Traceback" not in words
        async with serving(*start) as service, suite.connect(url) as client:
            await work(client)
            await foreign(client, count + 1)
            async with Connection.open(server.access, name="t") as connection:
                config = json.dumps(wanted_config("SUITE", "suite.event.>")).encode()
                await connection.request("$JS.API.STREAM.DELETE.SUITE", timeout=5)
                await connection.request("$JS.API.STREAM.CREATE.SUITE", config, timeout=5)
            assert "error log_gone: the start of this node" in await ended(service)
        async with serving(*start) as service, suite.connect(url) as client:
            await work(client)
            assert (await client.health_check()).foreign_messages == 0
            assert await service.stop() == 0
