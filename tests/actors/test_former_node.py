"""A conversation that cannot come from its former node is read again, whatever that node does."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from suite.bus.bucket import Bucket, store_breaker
from suite.bus.connection import Message
from suite.engine.snapshots.file import Saved, pack, to_bytes
from suite.errors import ConversationGone, StoreFull
from suite.identity import new_id
from suite.messages.actor import ConversationStored, GetConversation, MovingSpec
from support.actors import INSTANCE, MODEL, NODE, SECONDS, SUBJECTS, Actor, Stage, stage
from support.models import tiny_model

FORMER = "box9"
FEW = 20
"""Tokens that prompts here have in common."""
STORY = "Once upon a time there was a llama. " * 60
MOVING = MovingSpec(bucket="SUITE_CONVERSATIONS", max_bytes=1 << 20, ttl_seconds=60)
SETTINGS = {
    "context_tokens": 4096,
    "model_digest": "0" * 64,
    "snapshots": {
        "directory": None,
        "memory_bytes": 1 << 26,
        "disk_bytes": 0,
        "max_conversations": 9,
        "max_age_seconds": 99.0,
    },
    "moving": msgspec.to_builtins(MOVING),
}

Answer = Callable[[Stage, GetConversation], Awaitable[ConversationStored | None]]


async def silent(_: Stage, __: GetConversation) -> None:
    """It is frozen."""


async def refusing(_: Stage, __: GetConversation) -> ConversationStored:
    return ConversationStored(code=StoreFull.code, message="it is full")


async def lying(_: Stage, __: GetConversation) -> ConversationStored:
    return ConversationStored(name="nothing")


def bucket(on: Stage) -> Bucket:
    return Bucket(
        on.node,
        MOVING.bucket,
        ttl_seconds=MOVING.ttl_seconds,
        max_bytes=MOVING.max_bytes,
        storage="memory",
        replicas=1,
        new_id=new_id,
        breaker=store_breaker(MOVING.bucket, node="box1", clock=time.monotonic),
    )


async def stored(on: Stage, data: bytes) -> ConversationStored:
    async with bucket(on).opened() as store:
        await store.put("name", data)
    return ConversationStored(name="name")


async def noise(on: Stage, _: GetConversation) -> ConversationStored:
    return await stored(on, os.urandom(1000))


async def of_another_model(on: Stage, asked: GetConversation) -> ConversationStored:
    saved = Saved(asked.conversation_id, pack(range(400)), (), 0, bytes(10_000))
    return await stored(on, to_bytes(f"{asked.key} another", saved))


async def another_conversation(on: Stage, asked: GetConversation) -> ConversationStored:
    return await stored(on, to_bytes(asked.key, Saved("another", pack(range(400)), (), 0, bytes(10_000))))


@asynccontextmanager
async def asking(on: Stage, actor: Actor, answer: Answer) -> AsyncIterator[list[GetConversation]]:
    """A former node that answers like this, and what it is asked."""
    heard: list[GetConversation] = []

    async def hear(message: Message) -> None:
        heard.append(msgspec.json.decode(message.data, type=GetConversation))
        if (reply := await answer(on, heard[-1])) is not None:
            await on.node.publish(message.reply, msgspec.json.encode(reply))

    subscription = await on.node.subscribe(SUBJECTS.node(FORMER, "conversation"), hear)
    actor.former_node = FORMER
    yield heard
    await subscription.unsubscribe()


async def test_whatever_the_former_node_does_the_prompt_is_read(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", context=4096)
    async with stage(tmp_path) as on, on.actor(path, **SETTINGS) as actor:
        for answer in (silent, refusing, lying, noise, of_another_model, another_conversation):
            name = answer.__name__
            async with asking(on, actor, answer) as heard:
                client = await actor.generate(
                    name, prompt=f"{name} {STORY}", max_tokens=1, conversation_id=name
                )
                reply = await client.success()
            assert reply.usage.reused_tokens < FEW < reply.usage.prompt_tokens, name
            assert [each.conversation_id for each in heard] == [name]
        async with bucket(on).opened() as store:
            assert await store.info("name") is None


async def test_what_is_older_than_what_another_node_has_is_not_continued(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", context=4096)
    async with stage(tmp_path) as on:
        for moving in (SETTINGS["moving"], None):
            async with on.actor(path, **{**SETTINGS, "moving": moving}) as actor:
                first = await actor.generate("first", prompt="Once", max_tokens=2, conversation_id="c")
                await first.success()
                fields = {"prompt": " upon", "max_tokens": 2, "conversation_id": "c", "continue": True}
                async with asking(on, actor, refusing):
                    second = await actor.generate("second", **fields)
                    assert (await second.error()).code == ConversationGone.code


async def test_what_ends_before_it_has_come_over_leaves_nothing_that_could_be_continued(
    tmp_path: Path,
) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", context=4096)
    async with stage(tmp_path) as on, on.actor(path, **SETTINGS) as actor:
        first = await actor.generate("first", prompt="Once", max_tokens=2, conversation_id="c")
        await first.success()
        fields = {"max_tokens": 2, "conversation_id": "c", "continue": True}
        actor.former_node = FORMER  # which is not there
        refused = await actor.generate("refused", prompt=STORY * 20, **fields)
        await refused.error()
        actor.former_node = ""
        third = await actor.generate("third", prompt=" upon", **fields)
        assert (await third.error()).code == ConversationGone.code


async def test_what_another_node_could_not_restore_stays_and_goes_on_here(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", context=4096)
    async with stage(tmp_path) as on, on.actor(path, **SETTINGS) as actor:
        first = await actor.generate("first", prompt="Once", max_tokens=2, conversation_id="c")
        await first.success()
        asked = GetConversation(
            model_id=MODEL,
            content="0" * 64,
            key="another",
            conversation_id="c",
            reading_seconds=None,
            is_needed=True,
        )
        subject = SUBJECTS.actor(NODE, INSTANCE, "export")
        answer = await on.node.request(subject, msgspec.json.encode(asked), timeout=SECONDS)
        assert msgspec.json.decode(answer.data, type=ConversationStored) == ConversationStored()
        fields = {"prompt": " upon", "max_tokens": 2, "conversation_id": "c", "continue": True}
        second = await actor.generate("second", **fields)
        assert (await second.success()).usage.reused_tokens
