"""Forgetting what models keep for reuse, seen in the figures of real generations."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.client import Client
from suite.errors import ModelNotFound
from suite.messages.actions.generation import ClearKvCacheReply, GenerateTextReply
from support.models import slow_model, tiny_model
from support.nodes import client_of_node

STORIES = {"a": "The keeper climbed the stairs", "b": "Every evening it rained", None: "Nobody came"}
COMMON = 2
"""The tokens that every prompt begins with; another conversation may still have them in memory."""


async def tell(client: Client, conversation_id: str | None, model_id: str = "tiny") -> GenerateTextReply:
    """Begin or repeat a conversation's story."""
    return await client.generate_text(
        model_id,
        STORIES[conversation_id],
        max_tokens=5,
        temperature=0,
        conversation_id=conversation_id,
    )


async def test_a_cleared_conversation_is_prefilled_again_and_others_keep_their_tokens(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        first = await tell(client, "a")
        other = await tell(client, "b")
        repeated = await tell(client, "a")
        assert repeated.usage.reused_tokens == repeated.usage.prompt_tokens - 1
        reply = await client.clear_kv_cache(conversation_id="a")
        assert reply.cleared_conversations == 1
        # The last token is sampled and not kept.
        assert reply.cleared_tokens == first.usage.prompt_tokens + first.usage.completion_tokens - 1
        kept = await tell(client, "b")
        assert kept.usage.reused_tokens == kept.usage.prompt_tokens - 1
        assert kept.text == other.text
        fresh = await tell(client, "a")
        assert fresh.usage.reused_tokens <= COMMON
        assert fresh.text == first.text


async def test_tokens_that_two_conversations_share_stay_with_the_other(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        first = await tell(client, "a")
        sharing = await client.generate_text(
            "tiny", STORIES["a"] + " slowly", max_tokens=5, temperature=0, conversation_id="c"
        )
        assert sharing.usage.reused_tokens > COMMON
        await client.clear_kv_cache(conversation_id="a")
        again = await client.generate_text(
            "tiny", STORIES["a"] + " slowly", max_tokens=5, temperature=0, conversation_id="c"
        )
        assert again.usage.reused_tokens == again.usage.prompt_tokens - 1
        assert again.text == sharing.text
        assert (await tell(client, "a")).text == first.text


async def test_a_model_is_cleared_by_itself_or_with_all_others(tmp_path: Path) -> None:
    for name in ("tiny", "second"):
        tiny_model(tmp_path / f"{name}.gguf", name=name)
    async with client_of_node(tmp_path, tmp_path / "data") as client:

        async def tell_all() -> list[int]:
            """What is reused, in the order told."""
            told = [(id, model) for model in ("tiny", "second") for id in ("a", "b", None)]
            return [(await tell(client, id, model)).usage.reused_tokens for id, model in told]

        await tell_all()
        by_both = await client.clear_kv_cache(model_id="tiny", conversation_id="a")
        assert by_both.cleared_conversations == 1
        by_model = await client.clear_kv_cache(model_id="tiny")
        assert by_model.cleared_conversations == 2
        reused = await tell_all()
        assert reused[0] == 0
        assert all(count > COMMON for count in reused[3:])
        everything = await client.clear_kv_cache()
        assert everything.cleared_conversations == 6
        reused = await tell_all()
        assert reused[0] == reused[3] == 0
        in_both = await client.clear_kv_cache(conversation_id="b")
        assert in_both.cleared_conversations == 2


async def test_what_is_not_loaded_has_nothing_to_clear(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        for reply in (
            await client.clear_kv_cache(),
            await client.clear_kv_cache(model_id="tiny"),
            await client.clear_kv_cache(conversation_id="a"),
        ):
            assert (reply.cleared_conversations, reply.cleared_tokens) == (0, 0)
        await tell(client, "a")
        assert (await client.clear_kv_cache(conversation_id="never")).cleared_conversations == 0
        assert (await tell(client, "a")).usage.reused_tokens > COMMON
        with pytest.raises(ModelNotFound):
            await client.clear_kv_cache(model_id="nothing")


async def disturbed(client: Client, forgotten: str) -> tuple[GenerateTextReply, ClearKvCacheReply]:
    """Some of a long answer in conversation a, and what clearing told while it was generated."""
    running = client.generate("slow", STORIES["a"], max_tokens=4000, temperature=0, conversation_id="a")
    async for chunk in running:
        if chunk.index == 0:
            cleared = await client.clear_kv_cache(conversation_id=forgotten)
        if chunk.index == 10:
            await client.cancel_generation(running.generation_id)
    assert running.reply.finish_reason == "cancelled"
    return running.reply, cleared


async def test_a_conversation_that_generates_goes_on_and_is_forgotten_at_its_end(tmp_path: Path) -> None:
    slow_model(tmp_path / "slow.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        reply, cleared = await disturbed(client, "a")
        assert cleared.cleared_conversations == 1
        assert cleared.cleared_tokens >= reply.usage.prompt_tokens
        assert "once their generation ends" in cleared.message
        assert (await client.clear_kv_cache()).cleared_conversations == 0
        undisturbed = await client.generate_text(
            "slow", STORIES["a"], max_tokens=reply.usage.completion_tokens, temperature=0, conversation_id="a"
        )
        assert undisturbed.usage.reused_tokens == 0
        assert undisturbed.text == reply.text


async def test_clearing_waits_for_no_generation_of_another_conversation(tmp_path: Path) -> None:
    slow_model(tmp_path / "slow.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        await tell(client, "b", "slow")
        _, cleared = await disturbed(client, "b")
        assert cleared.cleared_conversations == 1
        assert "generation ends" not in cleared.message
        again = await client.generate_text("slow", STORIES["a"], max_tokens=5, conversation_id="a")
        assert again.usage.reused_tokens == again.usage.prompt_tokens - 1
        assert (await tell(client, "b", "slow")).usage.reused_tokens <= COMMON
