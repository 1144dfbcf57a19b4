"""Several answers to one prompt: one generation for everybody but the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from suite.messages.events import Generated
from support.actors import Actor, Stage, stage
from support.models import tiny_model

LONG = 60_000
SAMPLED = {"temperature": 1.0, "top_k": 0, "min_p": 0.0, "top_p": 1.0}


async def events(on: Stage, generation_id: str) -> list[Generated]:
    found = [recorded.data async for recorded in on.log.read()]
    return [each for each in found if isinstance(each, Generated) and each.generation_id == generation_id]


@asynccontextmanager
async def acting(tmp_path: Path) -> AsyncIterator[tuple[Stage, Actor]]:
    path = tiny_model(tmp_path / "tiny.gguf", context=LONG)
    async with stage(tmp_path) as on, on.actor(path, context_tokens=LONG, slots=2) as actor:
        yield on, actor


async def test_they_are_one_generation_with_one_reply_and_one_event(tmp_path: Path) -> None:
    async with acting(tmp_path) as (on, actor):
        client = await actor.generate(
            "g1", prompt="the sea", n=3, max_tokens=20, seed=7, logprobs=1, stream=True, **SAMPLED
        )
        final = await client.success()
        await client.end()
        texts = [each.text for each in final.choices]
        assert len(set(texts)) == 3, "each has a seed of its own"
        assert (final.text, final.seed) == (texts[0], 7)
        assert [chunk.index for chunk in client.chunks] == list(range(len(client.chunks)))
        for choice in final.choices:
            mine = [chunk for chunk in client.chunks if chunk.choice == choice.index]
            assert "".join(chunk.text for chunk in mine) == choice.text
            assert sum(len(chunk.logprobs or ()) for chunk in mine) == 20
            assert choice.finish_reason == "length"
        alone = await (await actor.generate("g2", prompt="the sea", max_tokens=20)).success()
        assert alone.choices == ()
        assert final.usage.prompt_tokens == alone.usage.prompt_tokens
        assert final.usage.completion_tokens == 60
        (event,) = await events(on, "g1")
        assert (event.prompt_tokens, event.completion_tokens) == (final.usage.prompt_tokens, 60)
        assert (await actor.finished("g1")).completion_tokens == 60

        whole = await (
            await actor.generate("g3", prompt="the sea", n=2, max_tokens=5, logprobs=0, conversation_id="c")
        ).success()
        assert [len(choice.logprobs or ()) for choice in whole.choices] == [5, 5]
        further = await (
            await actor.generate("g4", prompt=" and", max_tokens=1, conversation_id="c", **{"continue": True})
        ).success()
        assert further.usage.prompt_tokens > whole.usage.prompt_tokens + 5, "it goes on from the first answer"


async def test_a_cancel_ends_all_of_them_those_that_wait_too(tmp_path: Path) -> None:
    async with acting(tmp_path) as (on, actor):
        client = await actor.generate("g1", prompt="hello", n=3, max_tokens=100_000, stream=True)
        await client.until(2)
        assert await actor.cancel("g1")
        final = await client.success()
        assert [choice.finish_reason for choice in final.choices] == ["cancelled"] * 3
        (event,) = await events(on, "g1")
        assert event.outcome == "cancelled"
        after = await (await actor.generate("g2", prompt="hello", max_tokens=2)).success()
        assert after.usage.completion_tokens == 2


async def test_the_prompt_is_scored_where_that_is_asked_for(tmp_path: Path) -> None:
    async with acting(tmp_path) as (_, actor):
        client = await actor.generate("g1", prompt="the sea", max_tokens=0, prompt_logprobs=1)
        final = await client.success()
        assert final.prompt_logprobs is not None
        assert len(final.prompt_logprobs) == final.usage.prompt_tokens
        assert final.prompt_logprobs[0].logprob is None
        assert (final.finish_reason, final.text, final.usage.completion_tokens) == ("length", "", 0)
        long = await (
            await actor.generate("g2", prompt="the sea " * 230, max_tokens=1, prompt_logprobs=20)
        ).success()
        assert (long.prompt_logprobs, long.usage.completion_tokens) == (None, 1)
        assert "log probabilities are left out" in long.warnings[-1]
        never = await (
            await actor.generate("g3", prompt="the sea " * 1500, max_tokens=1, prompt_logprobs=20)
        ).error()
        assert never.code == "too_large"
        assert "fewer alternatives" in never.message


async def test_a_cancel_is_the_outcome_though_the_first_one_had_ended(tmp_path: Path) -> None:
    async with acting(tmp_path) as (on, actor):
        asked = {"prompt": "the sea", "n": 2, "seed": 7, **SAMPLED}
        known = await (await actor.generate("g1", max_tokens=12, **asked)).success()
        end = known.text[-6:]
        client = await actor.generate("g2", max_tokens=50_000, stop=[end], stream=True, **asked)
        while sum(len(chunk.text) for chunk in client.chunks if chunk.choice == 1) < 400:
            await client.until(len(client.messages) + 1)
        assert await actor.cancel("g2")
        final = await client.success()
        assert [choice.finish_reason for choice in final.choices] == ["stop", "cancelled"]
        assert final.finish_reason == "stop"
        (event,) = await events(on, "g2")
        assert event.outcome == "cancelled"


async def test_in_one_slot_a_conversation_is_not_kept_and_that_is_told(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", context=LONG)
    async with stage(tmp_path) as on, on.actor(path, context_tokens=LONG, slots=1) as actor:
        grammar = 'root ::= "a" | "b" | "c"'
        client = await actor.generate("g1", prompt="the sea", n=4, grammar=grammar, conversation_id="c")
        final = await client.success()
        assert {choice.text for choice in final.choices} <= {"a", "b", "c"}
        assert "the conversation is not kept" in final.warnings[-1]
        further = await actor.generate("g2", prompt=" and", conversation_id="c", **{"continue": True})
        assert (await further.error()).code == "conversation_gone"
