"""A node is taken out of service: others have its models first, then it gets no new work."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from suite.actions.drain import drain_node
from suite.client import Client
from suite.errors import InvalidRequest, NodeNotFound, RequestTimeout
from suite.messages.actions.drain import DrainNodeReply, DrainNodeRequest, MovedModel
from suite.messages.events import Generated
from suite.messages.signals import Draining
from support.fleet import fleet
from support.models import slow_model, tiny_model
from support.service import facts, history


async def served_by(client: Client, model_id: str) -> str:
    """The node that answers a generation."""
    reply = await client.generate_text(model_id, "Once", max_tokens=2)
    (event,) = [each.data for each in await history(client, "usage") if each.seq == reply.seq]
    assert isinstance(event, Generated)
    return event.node


async def until_draining(client: Client, *nodes: str) -> None:
    """Wait until each node knows who takes no new work."""
    with anyio.fail_after(20):
        for asked in ("box1", "box2"):
            while (await client.on_node(asked).health_check()).draining != nodes:
                await anyio.sleep(0.02)


async def test_a_drained_node_gets_no_new_work_and_others_have_its_models(tmp_path: Path) -> None:
    models = {name: tmp_path / f"models-{name}" for name in ("box1", "box2")}
    for directory in models.values():
        directory.mkdir()
        tiny_model(directory / "red.gguf")
        tiny_model(directory / "cold.gguf", seed=1)
        tiny_model(directory / "pinned.gguf", seed=3)
    slow_model(models["box1"] / "own.gguf")
    async with fleet(models, tmp_path) as found:
        client, box1 = found.client, found.client.on_node("box1")
        for model_id in ("red", "own"):
            await box1.generate_text(model_id, "Once", max_tokens=1)
        await box1.pin_model("pinned")
        for model_id in ("cold", "pinned"):
            await box1.load_model(model_id)
        progress: list[Draining] = []
        generation = box1.generate("red", "Once", max_tokens=200)
        async with aclosing(generation.__aiter__()) as chunks:  # type: ignore[type-var]
            await anext(chunks)
            drained = await client.drain_node("box1", on_progress=progress.append)
            async for _ in chunks:
                pass
        assert generation.reply.usage.completion_tokens == 200, "what runs there ends"
        assert progress and all(each.node == "box1" for each in progress)
        assert set(drained.models) == {
            MovedModel(model_id="red", node="box2"),
            MovedModel(model_id="pinned", node="box2"),
            MovedModel(model_id="own", node=None, problem="no other node has it"),
        }
        await until_draining(client, "box1")
        assert {await served_by(client, "red") for _ in range(5)} == {"box2"}
        assert await served_by(client, "cold") == "box2"
        assert await served_by(client, "own") == "box1", "it is better than a refusal"
        (red,) = [each for each in (await client.get_fleet()).models if each.model_id == "red"]
        assert {file.node for file in red.files if file.node_draining} == {"box1"}

        assert (await client.drain_node("box1")).seq is None, "it is being drained already"
        (told,) = (await client.explain()).nodes
        assert told.node == "box1"
        assert told.sentences[0].startswith("box1 is being drained, as ")
        assert told.sentences[0] in (await client.explain("own")).models[0].sentences
        assert "no other node takes work" in (await client.drain_node("box2")).message
        await client.drain_node("box2", undo=True)
        await until_draining(client, "box1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.generate("own", "Once", max_tokens=100_000).finish)
            with anyio.fail_after(20):
                while not await generating(box1):
                    await anyio.sleep(0.01)
            with pytest.raises(RequestTimeout, match=r"own \(1 generation, no other node has it\)"):
                await client.drain_node("box1", wait_ms=100)
            tasks.cancel_scope.cancel()
        undone = await client.drain_node("box1", undo=True)
        assert (undone.draining, undone.models) == (False, ())
        await until_draining(client)
        await client.on_node("box2").unload_model("red")
        assert await served_by(client, "red") == "box1"
        assert facts(await history(client, "node.box1"))[-2:] == ["node.draining", "node.resumed"]
        with pytest.raises(NodeNotFound):
            await client.drain_node("box9")
        with pytest.raises(InvalidRequest, match="name the node"):
            await client._ask("drain_node", DrainNodeRequest(), DrainNodeReply)


async def generating(client: Client) -> bool:
    return (await client.get_stats()).generations_running > 0


class Ending:
    """A node that is drained, and whose last generation ends while it is asked which ones there are."""

    name = "box1"

    def __init__(self) -> None:
        self.drain = SimpleNamespace(begin=self._begin, is_on=True, is_moving=False, loading=None, moved=())
        self.generations = SimpleNamespace(pending=1, running=self._running)
        self.supervisor = SimpleNamespace(leases=SimpleNamespace(running=0))

    async def _begin(self, _requested_by: str) -> int:
        await anyio.lowlevel.checkpoint()
        return 1

    async def _running(self, _model_id: None) -> tuple[object, ...]:
        await anyio.lowlevel.checkpoint()
        return ()


async def test_a_drain_that_is_too_slow_names_nothing_if_all_has_just_ended() -> None:
    request = DrainNodeRequest(node="box1", wait_ms=1)
    with pytest.raises(RequestTimeout) as told:
        await drain_node(cast(Any, Ending()), request, cast(Any, SimpleNamespace(client=None)))
    assert told.value.message == "box1 still has something to do after 0.001 s; the drain goes on"
