"""A model that is asked for more than its node can serve is loaded on another one too, while that lasts."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import anyio
import msgspec
import pytest

from suite.bus.connection import Connection
from suite.client import Client
from suite.client.replies import read_reply
from suite.errors import InvalidRequest, Overloaded
from suite.messages.actions.residency import (
    LoadModelReply,
    LoadModelRequest,
    UnloadModelReply,
    UnloadModelRequest,
)
from suite.messages.events import Event, InstanceLoadStarted, InstanceUnloaded
from suite.messages.subjects import Subjects
from support.fleet import Fleet, fleet
from support.models import slow_model

CONFIG = """

[copies]
add_seconds = 0.5
remove_seconds = 1

[models.hot]
slots = 1
"""
SECONDS = 60.0


async def test_a_hot_model_gets_a_copy_and_loses_it(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    slow_model(models / "hot.gguf")
    config = tmp_path / "suite.toml"
    config.write_text(CONFIG)
    nodes = {"box1": models, "box2": models}
    async with fleet(nodes, tmp_path, "--config", str(config)) as found:
        client = found.client
        with pytest.raises(InvalidRequest, match="'purpose'"):
            await client._ask(
                "load_model", LoadModelRequest(model_id="hot", purpose="replica"), LoadModelReply
            )
        with pytest.raises(InvalidRequest, match="'reason'"):
            await client._ask(
                "unload_model", UnloadModelRequest(model_id="hot", reason="spare"), UnloadModelReply
            )
        await client.load_model("hot")
        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as tasks:
                for _ in range(6):
                    tasks.start_soon(generate, found.client)
                event = await happened(found.client, "instance.*.hot.load_started", number=2)
                assert isinstance(event, InstanceLoadStarted)
                started = event
                with pytest.raises(Overloaded, match="in use"):
                    await ask_as_a_node(found, "box2" if started.node == "box1" else "box1")
                tasks.cancel_scope.cancel()
            assert started.decision is not None and started.decision.purpose == "replica"
            unloaded = await happened(found.client, "instance.*.hot.unloaded")
        assert isinstance(unloaded, InstanceUnloaded)
        assert (unloaded.reason, unloaded.node) == ("spare", started.node)
        told = (await found.client.explain("hot")).events
        assert any("as a replica" in sentence for each in told for sentence in each.sentences)


async def ask_as_a_node(found: Fleet, node: str) -> UnloadModelReply:
    """Have a node remove its copy, as the one does that decides about copies."""
    request = UnloadModelRequest(model_id="hot", reason="spare")
    async with Connection.open(found.server.access, name="test") as connection:
        subject = Subjects().node(node, "action.unload_model")
        answer = await connection.request(subject, msgspec.json.encode(request), timeout=SECONDS)
    return read_reply(answer.data, UnloadModelReply)


async def generate(client: Client) -> None:
    await client.generate("hot", "Once", max_tokens=4000).finish()


async def happened(client: Client, filter: str, *, number: int = 1) -> Event:
    """The event of that number under a filter, once it is there."""
    async with aclosing(client.events(filter, follow=True)) as events:
        for _ in range(number - 1):
            await anext(events)
        return (await anext(events)).data
