"""A conversation that goes on on another node takes its tokens along, and they are not read again."""

from __future__ import annotations

import signal
from contextlib import aclosing
from pathlib import Path

import anyio
import msgspec
import pytest

from suite.bus.connection import Connection, Message
from suite.client import Client
from suite.messages.actions.generation import GenerateTextReply
from suite.messages.events import Generated
from suite.messages.presence import NodeState
from support.fleet import PATIENCE_SECONDS, Fleet, fleet
from support.models import tiny_model

MODEL = "tiny"
CONTEXT = 16_384
STORY = " ".join(f"Llama number {number} lives on a hill and eats grass." for number in range(20))


@pytest.mark.timeout(180)
async def test_conversations_take_their_tokens_along(tmp_path: Path) -> None:
    models = {name: tmp_path / f"models-{name}" for name in ("box1", "box2")}
    for each in models.values():
        each.mkdir()
        tiny_model(each / f"{MODEL}.gguf", context=CONTEXT)
    settings = tmp_path / "suite.toml"
    settings.write_text(f"[models.{MODEL}]\ncontext_length = {CONTEXT}\n")
    async with fleet(models, tmp_path, "--config", str(settings)) as found:
        box1, box2 = (found.client.on_node(name) for name in models)
        await box2.load_model(MODEL)

        # Its node has unloaded the model: the state comes from its file.
        first = await told(found, box1, "unloaded", STORY)
        await box1.unload_model(MODEL)
        second = await told(found, found.client, "unloaded", f"{STORY}{first.text} And then", at="box2")
        assert second.usage.reused_tokens > 0.9 * first.usage.prompt_tokens

        # Its node stops: the state comes from the process of the model.
        first = await told(found, box1, "stopping", STORY[10:])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_for_long, box1)
            with anyio.fail_after(PATIENCE_SECONDS):
                while not (await box1.get_stats()).generations_running:
                    await anyio.sleep(0.02)
            found.nodes["box1"].process.send_signal(signal.SIGTERM)
            await is_draining(found, "box1")
            with anyio.fail_after(PATIENCE_SECONDS):
                while (health := await box2.health_check()).stopping != ("box1",):
                    await anyio.sleep(0.02)
            assert (health.missing_nodes, health.status) == ((), "HEALTHY")
            second = await told(found, found.client, "stopping", " And then", at="box2", continue_=True)
            assert second.usage.prompt_tokens > first.usage.prompt_tokens
            assert second.usage.reused_tokens > 0.9 * first.usage.prompt_tokens
            tasks.cancel_scope.cancel()


async def told(
    found: Fleet,
    client: Client,
    conversation_id: str,
    text: str,
    *,
    at: str = "box1",
    continue_: bool = False,
) -> GenerateTextReply:
    """The answer to one turn of a conversation, which a certain node is to give."""
    reply = await client.generate_text(
        MODEL, text, max_tokens=8, conversation_id=conversation_id, continue_=continue_
    )
    async with aclosing(found.client.events(after=reply.seq - 1, follow=True)) as events:
        event = (await anext(events)).data
    assert isinstance(event, Generated)
    assert event.node == at
    return reply


async def write_for_long(client: Client) -> None:
    await client.generate_text(MODEL, STORY[20:], max_tokens=CONTEXT - 2_000)


async def is_draining(found: Fleet, node: str) -> None:
    """Wait until a node tells that it wants no new work."""
    told = anyio.Event()

    async def hear(message: Message) -> None:
        if msgspec.json.decode(message.data, type=NodeState).is_draining:
            told.set()

    async with Connection.open(found.server.access, name="test") as connection:
        await connection.subscribe(f"suite.actor.{node}.state", hear)
        with anyio.fail_after(PATIENCE_SECONDS):
            await told.wait()
