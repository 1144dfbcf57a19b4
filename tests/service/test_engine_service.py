"""What clients see of the engine: many at once, conversations that last, answers in a form."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from suite.client import Client
from suite.errors import (
    ConversationGone,
    InvalidGrammar,
    InvalidRequest,
    Overloaded,
    PromptTooLong,
)
from suite.messages.actions.chat import Function, Tool
from suite.messages.actions.generation import GenerateTextReply
from support.models import slow_model, smollm2, tiny_model
from support.nodes import client_of_node
from support.service import Serving, service_and_client

STORY = "The old lighthouse keeper climbed the stairs every evening and looked at the sea. " * 4
SMOL = smollm2().stem


@asynccontextmanager
async def tiny_service(directory: Path, *, settings: str = "") -> AsyncIterator[tuple[Serving, Client]]:
    models = directory / "models"
    models.mkdir(exist_ok=True)
    if not (models / "tiny.gguf").exists():
        tiny_model(models / "tiny.gguf")
    config = directory / "suite.toml"
    config.write_text(f"{settings}\n[models.tiny]\ncontext_length = 1024\n")
    async with service_and_client(models, directory / "suite", "--config", str(config)) as both:
        yield both


async def turn(
    client: Client, prompt: str, conversation: str, *, continue_: bool = False
) -> GenerateTextReply:
    return await client.generate_text(
        "tiny", prompt, max_tokens=8, temperature=0.0, conversation_id=conversation, continue_=continue_
    )


async def test_a_short_answer_does_not_wait_for_a_long_one(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    slow_model(tmp_path / "models" / "slow.gguf")
    async with client_of_node(tmp_path / "models", tmp_path / "suite") as client:
        await client.load_model("slow")
        long = client.generate("slow", "the", max_tokens=4000)
        async for chunk in long:
            assert chunk.text
            short = await client.generate_text("slow", "the", max_tokens=2)
            assert short.usage.completion_tokens == 2
            break  # which cancels the long one: it would have gone on for long
        assert (await client.list_models()).models[0].loaded


async def test_a_conversation_survives_unload_crash_and_restart(tmp_path: Path) -> None:
    async with tiny_service(tmp_path) as (service, client):
        first = await turn(client, STORY, "c")
        prompt = STORY + first.text + " and then"
        await client.unload_model("tiny")
        second = await turn(client, prompt, "c")
        assert second.usage.reused_tokens >= first.usage.prompt_tokens
        info = (await client.get_model_status("tiny")).model
        assert info is not None and info.instance is not None and info.instance.pid is not None
        snapshots = service.data_dir / "snapshots"
        before = {path.name for path in snapshots.rglob("*.kv")}
        with anyio.fail_after(20):  # it is written down when there is nothing else to do
            while {path.name for path in snapshots.rglob("*.kv")} == before:
                await anyio.sleep(0.05)
        os.kill(info.instance.pid, signal.SIGKILL)
        with anyio.fail_after(20):
            while (await client.get_model_status("tiny")).model.loaded:  # type: ignore[union-attr]
                await anyio.sleep(0.05)
        third = await turn(client, prompt + second.text + " so", "c")
        assert third.usage.reused_tokens >= second.usage.prompt_tokens
    async with tiny_service(tmp_path) as (_, client):
        fourth = await turn(client, prompt + second.text + " so", "c")
        assert fourth.usage.reused_tokens >= second.usage.prompt_tokens
        assert fourth.text == third.text
        more = await turn(client, " and on", "c", continue_=True)
        assert more.usage.reused_tokens > third.usage.prompt_tokens
        await client.clear_kv_cache(conversation_id="c")
        with pytest.raises(ConversationGone):
            await turn(client, " and on", "c", continue_=True)
        with pytest.raises(InvalidRequest):
            await client.generate_text("tiny", "x", continue_=True)
    for path in (tmp_path / "suite" / "snapshots").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


async def test_nothing_is_kept_when_snapshots_are_off(tmp_path: Path) -> None:
    async with tiny_service(tmp_path, settings="[snapshots]\nenabled = false") as (service, client):
        await turn(client, STORY, "c")
        await client.unload_model("tiny")
        assert (await turn(client, STORY, "c")).usage.reused_tokens == 0
        assert not (service.data_dir / "snapshots").exists()


async def test_a_deadline_gives_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    slow_model(tmp_path / "models" / "slow.gguf")
    async with client_of_node(tmp_path / "models", tmp_path / "suite") as client:
        await client.load_model("slow")
        for deadline_ms in (300, 3_000, 30_000):  # on a busy machine nothing may come so soon
            reply = await client.generate_text("slow", "the", max_tokens=100_000, deadline_ms=deadline_ms)
            assert reply.finish_reason == "deadline"
            if reply.usage.completion_tokens:
                break
        assert reply.usage.completion_tokens > 0


async def test_a_full_queue_is_told_and_what_was_accepted_goes_on(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    slow_model(tmp_path / "models" / "slow.gguf")
    config = tmp_path / "suite.toml"
    config.write_text("queue_limit = 2\n[models.slow]\nslots = 1\n")
    async with client_of_node(tmp_path / "models", tmp_path / "suite", config=config) as client:
        await client.load_model("slow")
        outcomes: list[str] = []

        async def ask() -> None:
            try:
                await client.generate_text("slow", "the", max_tokens=2)
                outcomes.append("success")
            except Overloaded as error:
                assert "try again in about" in error.message
                outcomes.append("overloaded")

        async with (
            client.generate("slow", "the", max_tokens=4000) as running,
            aclosing(running.__aiter__()) as chunks,  # type: ignore[type-var]
        ):
            await anext(chunks)
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(ask)
                with anyio.fail_after(20):
                    while len(outcomes) < 3:
                        await anyio.sleep(0.02)
                assert outcomes == ["overloaded"] * 3, "the slot and the queue are full"
                await client.cancel_generation(running.generation_id)
        assert outcomes[3:] == ["success"] * 2
        with anyio.fail_after(30):  # the first are in the log within a second or two, all within a minute
            while not (await client.get_request_statistics("slow")).total.refusals.get("overloaded"):
                await anyio.sleep(0.1)


async def test_answers_follow_a_form_and_tell_how_likely_they_were(tmp_path: Path) -> None:
    async with client_of_node(smollm2().parent, tmp_path / "suite") as client:
        schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
        chat = [{"role": "user", "content": "How old is Ann, who was born ten years ago? Answer in JSON."}]
        answer = await client.generate_text(
            SMOL, messages=chat, json_schema=schema, max_tokens=60, temperature=0.0, logprobs=2
        )
        assert isinstance(json.loads(answer.text)["age"], int)
        assert answer.logprobs is not None
        assert len(answer.logprobs) == answer.usage.completion_tokens
        assert all(len(each.top_logprobs) == 2 and each.logprob <= 0 for each in answer.logprobs)
        with pytest.raises(InvalidGrammar):
            await client.generate_text(SMOL, "x", grammar="root ::= [z-a]", max_tokens=4)
        colour = Tool(function=Function(name="colour", parameters={"type": "object"}))
        told = await client.generate_text(SMOL, messages=chat, tools=(colour,), max_tokens=4)
        assert any("no place for tools" in warning for warning in told.warnings)
        status = (await client.get_model_status(SMOL)).model
        assert status is not None and status.loaded


async def test_a_prompt_is_cut_where_that_is_asked_and_texts_become_vectors(tmp_path: Path) -> None:
    async with tiny_service(tmp_path) as (_, client):
        with pytest.raises(PromptTooLong):
            await client.generate_text("tiny", STORY * 60, max_tokens=4)
        cut = await client.generate_text("tiny", STORY * 60, max_tokens=4, truncate="left")
        assert cut.truncated_tokens > 0 and cut.usage.completion_tokens == 4
        with pytest.raises(InvalidRequest, match="logit_bias"):
            await client.generate_text("tiny", "x", logit_bias={"999999": 1.0}, max_tokens=4)
        embedded = await client.embed("tiny", ["the sea", "the sea", "a stone"])
        assert len(embedded.embeddings) == 3
        assert embedded.embeddings[0] == pytest.approx(embedded.embeddings[1], abs=1e-3)
        with pytest.raises(PromptTooLong, match="1"):
            await client.embed("tiny", ["short", STORY * 60])
