"""Vectors from the process of one model, beside what it generates."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import msgspec
import pytest

from suite.messages.actor import ActorReply, Clear, Cleared, Embed, Embedded
from support.actors import INSTANCE, NODE, SECONDS, SUBJECTS, Stage, stage
from support.models import tiny_model

ENDLESS = {"prompt": "hello", "max_tokens": 100_000, "stream": True}
LONG_CONTEXT = 60_000
TEXT = "the sea and the shore " * 150
"""About 1,650 tokens of the tiny model."""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.gguf", context=LONG_CONTEXT)


async def ask(on: Stage, operation: str, request: bytes) -> bytes:
    answer = await on.node.request(SUBJECTS.actor(NODE, INSTANCE, operation), request, timeout=SECONDS)
    return answer.data


async def embed(on: Stage, *texts: str, seconds: float = SECONDS) -> Embedded:
    request = Embed(inputs=texts, normalize=True, seconds=seconds)
    return msgspec.json.decode(await ask(on, "embed", msgspec.json.encode(request)), type=Embedded)


async def test_what_is_generated_does_not_wait_for_them(tmp_path: Path, tiny: Path) -> None:
    async with (
        stage(tmp_path) as on,
        on.actor(tiny, context_tokens=LONG_CONTEXT, prompt_step_tokens=32) as actor,
        anyio.create_task_group() as tasks,
    ):
        embedded: list[Embedded] = []

        async def embed_much() -> None:
            embedded.append(await embed(on, *[TEXT] * 8))

        client = await actor.generate("g1", **ENDLESS)
        await client.until(1)
        tasks.start_soon(embed_much)
        await client.until(len(client.messages) + 2)
        assert await actor.cancel("g1")
        assert (await client.success()).finish_reason == "cancelled"
        again = await (await actor.generate("g2", prompt="hello", max_tokens=5)).success()
        assert again.usage.completion_tokens == 5
        assert not embedded
        with anyio.fail_after(SECONDS):
            while not embedded:
                await anyio.sleep(0.01)
        assert len(embedded[0].embeddings) == 8
        assert 8 * 1000 < embedded[0].tokens < 8 * 2048


async def test_they_are_given_up_when_nobody_waits_any_longer(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny, context_tokens=LONG_CONTEXT):
        late = await embed(on, *[TEXT] * 250, seconds=0.2)
        assert late.code == "timeout"
        assert (await embed(on, "the sea")).embeddings


async def test_those_that_find_its_queue_full_are_told_when_to_come_again(tmp_path: Path, tiny: Path) -> None:
    async with (
        stage(tmp_path) as on,
        on.actor(tiny, context_tokens=LONG_CONTEXT, queue_limit=1),
        anyio.create_task_group() as tasks,
    ):
        answers: list[Embedded] = []

        async def ask_for_much() -> None:
            answers.append(await embed(on, *[TEXT] * 250, seconds=3.0))

        for _ in range(3):
            tasks.start_soon(ask_for_much)
        with anyio.fail_after(SECONDS):
            while not answers:
                await anyio.sleep(0.01)
        assert (answers[0].code, answers[0].retry_after_ms) == ("overloaded", 1000)
        assert "try again in about 1 s" in answers[0].message


async def test_told_to_end_it_refuses_what_is_not_done(tmp_path: Path, tiny: Path) -> None:
    async with (
        stage(tmp_path) as on,
        on.actor(tiny, context_tokens=LONG_CONTEXT) as actor,
        anyio.create_task_group() as tasks,
    ):

        async def ask_for_much() -> None:
            assert (await embed(on, *[TEXT] * 250)).code == "model_unloading"

        tasks.start_soon(ask_for_much)
        client = await actor.generate("g1", **ENDLESS)
        await client.until(2)
        os.kill(actor.process.pid, signal.SIGTERM)
        assert (await client.error()).code == "model_unloading"
        assert await actor.process.exit_code() == 0


@pytest.mark.parametrize("operation", ["embed", "clear"])
async def test_what_nobody_thought_of_is_told_and_ends_no_generation(
    tmp_path: Path, tiny: Path, operation: str
) -> None:
    async with stage(tmp_path) as on, on.actor(tiny, context_tokens=LONG_CONTEXT) as actor:
        client = await actor.generate("g1", **ENDLESS)
        answer = msgspec.json.decode(await ask(on, operation, b"not what a node sends"), type=ActorReply)
        assert answer.code == "internal"
        await client.until(len(client.messages) + 2)
        assert (await embed(on, "the sea")).embeddings
        cleared = await ask(on, "clear", msgspec.json.encode(Clear(conversation_id=None)))
        assert not msgspec.json.decode(cleared, type=Cleared).code
        assert await actor.cancel("g1")
        assert (await client.success()).finish_reason == "cancelled"
