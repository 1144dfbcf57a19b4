"""Generating through the real service: streams, chats, conversations, cancelling, figures."""

from __future__ import annotations

from pathlib import Path

import anyio
import msgspec
import pytest
from msgspec import UNSET

import suite
from suite.bus.connection import Connection
from suite.client import Client
from suite.errors import GenerationExists, GenerationNotFound, SuiteError
from suite.messages.actions.generation import GenerateTextReply
from suite.messages.events import Generated
from support.models import CHAT_TEMPLATE, slow_model, smollm2, tiny_model
from support.nodes import client_of_node
from support.service import facts, history, service_and_client

USER = {"role": "user", "content": "Name three colours."}


async def test_the_pieces_of_a_stream_are_the_whole_text(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        generation = client.generate("tiny", "Once upon", max_tokens=30, seed=7)
        pieces = [chunk.text async for chunk in generation]
        reply = generation.reply
        assert "".join(pieces) == reply.text
        assert reply.usage.completion_tokens == 30
        assert reply.finish_reason == "length"
        assert reply.seed == 7
        whole = await client.generate_text("tiny", "Once upon", max_tokens=30, seed=7)
        assert whole.text == reply.text


async def test_a_generation_is_an_event_with_figures_and_no_text(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        reply = await client.generate_text("tiny", "Once upon", max_tokens=5, conversation_id="c1")
        (event,) = await history(client, "usage")
        assert event.seq == reply.seq
        assert isinstance(event.data, Generated)
        assert event.data.completion_tokens == 5
        assert event.data.prompt_tokens == reply.usage.prompt_tokens
        assert event.data.conversation_id == "c1"
        assert isinstance(event.data.waited_ms, float)
        assert event.data.waited_ms > 0.0  # for the load
        stored = msgspec.json.encode(event.data).decode()
        assert "Once upon" not in stored
        assert reply.text not in stored


async def test_a_second_turn_reuses_what_is_in_memory(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm2.gguf").hardlink_to(smollm2())
    async with client_of_node(tmp_path / "models", tmp_path / "data") as client:
        first = await client.generate_text(
            "smollm2", messages=[USER], max_tokens=12, temperature=0, conversation_id="c1"
        )
        assert not first.using_kv_cache
        turns = [
            USER,
            {"role": "assistant", "content": first.text},
            {"role": "user", "content": "And one more?"},
        ]
        second = await client.generate_text(
            "smollm2", messages=turns, max_tokens=8, temperature=0, conversation_id="c1"
        )
        assert second.using_kv_cache
        assert second.usage.reused_tokens >= first.usage.prompt_tokens
        await client.unload_model("smollm2")
        assert (await client.clear_kv_cache()).cleared_conversations == 1  # what was kept on disk
        fresh = await client.generate_text("smollm2", messages=turns, max_tokens=8, temperature=0)
        assert fresh.usage.reused_tokens == 0
        assert fresh.text == second.text


async def test_two_generations_at_once_both_work(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        replies: list[GenerateTextReply] = []

        async def generate(prompt: str) -> None:
            replies.append(await client.generate_text("tiny", prompt, max_tokens=50, seed=1))

        async with anyio.create_task_group() as tasks:
            for prompt in ("Once", "Twice"):
                tasks.start_soon(generate, prompt)
        assert [reply.usage.completion_tokens for reply in replies] == [50, 50]
        alone = await client.generate_text("tiny", "Twice", max_tokens=50, seed=1)
        assert alone.text in {reply.text for reply in replies}


async def slow_generation(client: Client, generation_id: str | None = None) -> None:
    async for _ in client.generate(
        "slow", "Once", max_tokens=4000, temperature=0, generation_id=generation_id
    ):
        pass


async def wait_running(client: Client, model_id: str, count: int) -> None:
    with anyio.fail_after(20):
        while True:
            model = (await client.get_model_status(model_id)).model
            if model and model.instance and model.instance.running == count:
                return
            await anyio.sleep(0.01)


async def test_cancelling_by_id_gives_the_requester_what_there_is(tmp_path: Path) -> None:
    slow_model(tmp_path / "slow.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        generation = client.generate("slow", "Once", max_tokens=4000, temperature=0)
        async for chunk in generation:
            if chunk.index == 2:
                assert (await client.cancel_generation(generation.generation_id)).cancelled
        assert generation.reply.finish_reason == "cancelled"
        assert 0 < generation.reply.usage.completion_tokens < 4000
        with pytest.raises(GenerationNotFound):
            await client.cancel_generation(generation.generation_id)


async def test_leaving_the_loop_cancels_on_the_server(tmp_path: Path) -> None:
    slow_model(tmp_path / "slow.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        async with client.generate("slow", "Once", max_tokens=4000, temperature=0) as generation:
            async for _ in generation:
                break
        await wait_running(client, "slow", 0)
        (event,) = await history(client, "usage")
        assert isinstance(event.data, Generated)
        assert event.data.outcome in ("cancelled", "client_gone")


async def test_an_id_that_runs_already_is_refused(tmp_path: Path) -> None:
    slow_model(tmp_path / "slow.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slow_generation, client, "mine")
            await wait_running(client, "slow", 1)
            with pytest.raises(GenerationExists):
                await client.generate_text("slow", "Twice", generation_id="mine")
            await client.cancel_generation("mine")


async def test_an_unload_lets_running_generations_end_and_then_cancels_them(tmp_path: Path) -> None:
    slow_model(tmp_path / "slow.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        errors: list[str] = []

        async def generate() -> None:
            try:
                await slow_generation(client)
            except SuiteError as error:
                errors.append(error.code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(generate)
            await wait_running(client, "slow", 1)
            assert (await client.unload_model("slow", drain_ms=0)).unloaded
        assert errors == ["model_unloading"]
        assert facts(await history(client, "instance"))[-1] == "instance.unloaded"


async def test_a_bare_nats_client_gets_one_reply_or_a_stream(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf", chat_template=CHAT_TEMPLATE)
    async with service_and_client(tmp_path, tmp_path / "data") as (service, _):
        async with Connection.open(service.connection_file().access, name="bare") as bare:
            asked = {"model_id": "tiny", "prompt": "Once", "max_tokens": 3, "colour": "red"}
            single = await bare.request("suite.action.generate_text", msgspec.json.encode(asked), timeout=20)
            reply = msgspec.json.decode(single.data)
            assert reply["status"] == "success"
            assert any("colour" in warning for warning in reply["warnings"])
            kinds: list[str] = []
            async with bare.request_many(
                "suite.action.generate_text",
                msgspec.json.encode({**asked, "stream": True}),
                idle_timeout=10,
            ) as messages:
                async for message in messages:
                    body = msgspec.json.decode(message.data)
                    kinds.append(body.get("kind") or body["status"])
            assert kinds[0] == "accepted"
            assert kinds[-1] == "success"
            assert set(kinds[1:-1]) <= {"chunk", "heartbeat", "progress"}


async def test_the_service_is_found_by_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with service_and_client(tmp_path, tmp_path / "data"):
        monkeypatch.setenv("SUITE_DATA_DIR", str(tmp_path / "data"))
        async with suite.connect() as client:
            health = await client.health_check()
            assert health.status == "HEALTHY"
            assert health.models_tracked == 1


THINKING_TEMPLATE = CHAT_TEMPLATE.replace("{{ '[assistant] ' }}", "{{ '[assistant] <think>\n' }}") + (
    "{# </think> #}"
)
"""Opens the reasoning in the prompt."""


async def test_what_a_model_thinks_comes_apart_in_chunks_and_replies(tmp_path: Path) -> None:
    """The model of random weights never ends its reasoning, unless its answer is begun for it."""
    tiny_model(tmp_path / "tiny.gguf", chat_template=THINKING_TEMPLATE)
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        generation = client.generate("tiny", messages=[USER], max_tokens=12, stop="e", requester="key-1")
        chunks = [chunk async for chunk in generation]
        reply = generation.reply
        assert reply.text == "".join(chunk.text for chunk in chunks) == ""
        assert reply.reasoning is not None
        assert reply.reasoning == "".join(chunk.reasoning or "" for chunk in chunks)
        assert reply.usage.reasoning_tokens == reply.usage.completion_tokens == 12
        begun = [USER, {"role": "assistant", "content": "Red", "reasoning_content": "Some three."}]
        answer = await client.generate_text("tiny", messages=begun, max_tokens=12)
        assert answer.reasoning is None
        assert answer.text
        assert answer.usage.reasoning_tokens == 0
        both = await client.generate_text("tiny", messages=[USER], max_tokens=5, n=2)
        assert all(choice.reasoning and not choice.text for choice in both.choices)
        events = [event.data for event in await history(client, "usage")]
        assert [getattr(event, "requester", None) for event in events] == ["key-1", UNSET, UNSET]


async def test_the_shapes_of_other_apis_are_taken_and_nothing_is_lost_in_silence(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf", chat_template=CHAT_TEMPLATE)
    async with service_and_client(tmp_path, tmp_path / "data") as (service, client):
        reply = await client.generate_text(
            "tiny",
            messages=[
                {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": None, "tool_calls": []},
                {"role": "user", "content": "So?"},
            ],
            max_completion_tokens=3,
            logprobs=True,
            top_logprobs=2,
            seed=-1,
        )
        assert reply.usage.completion_tokens == 3
        assert reply.seed >= 0
        assert reply.logprobs is not None
        assert [len(token.top_logprobs) for token in reply.logprobs] == [2, 2, 2]
        assert not reply.warnings
        nulls = dict.fromkeys(("stop", "temperature", "tools", "logit_bias", "max_tokens", "n", "user"))
        asked = {"model_id": "tiny", "messages": [USER], **nulls, "max_completion_tokens": 4, "store": True}
        async with Connection.open(service.connection_file().access, name="bare") as bare:
            single = await bare.request("suite.action.generate_text", msgspec.json.encode(asked), timeout=20)
        body = msgspec.json.decode(single.data)
        assert body["usage"]["completion_tokens"] == 4
        assert body["warnings"] == ["unknown field 'store' ignored"]
