"""Ranks, tokens and prompts as clients get them from a real service."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import anyio
import gguf
import pytest
from prometheus_client.parser import text_string_to_metric_families

from suite.errors import (
    CannotEmbed,
    CannotGenerate,
    CannotRerank,
    InvalidRequest,
    NoChatTemplate,
    UnsupportedContent,
)
from suite.messages.events import UsageRecorded
from support.encoder import tiny_bert
from support.models import CHAT_TEMPLATE, tiny_model
from support.nodes import client_of_node
from support.ports import free_port
from support.service import history, of_any_version, service_and_client

DOCUMENTS = ["a stone", "the shore of the sea", "a tree has leaves", "the sea"]


async def test_documents_come_in_the_order_of_their_scores_and_count_as_usage(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    tiny_bert(tmp_path / "models" / "ranker.gguf", pooling=gguf.PoolingType.RANK)
    tiny_bert(tmp_path / "models" / "bert.gguf")
    listen = f"127.0.0.1:{free_port()}"
    options = ("--metrics-listen", listen)
    async with service_and_client(tmp_path / "models", tmp_path / "suite", *options) as (_, client):
        with pytest.raises(CannotRerank, match="bert has no head that ranks documents, it makes embeddings"):
            await client.rerank("bert", "the sea", DOCUMENTS)
        with pytest.raises(CannotEmbed):
            await client.embed("ranker", "the sea")
        with pytest.raises(CannotGenerate):
            await client.generate_text("ranker", "the sea")
        assert await history(client, "instance") == [], "what a model cannot do needs no load"
        status = (await client.get_model_status("ranker")).model
        assert status is not None and status.capabilities == ("rerank",)

        ranked = await client.rerank("ranker", "the sea", DOCUMENTS, requester="key-1")
        scores = [each.score for each in ranked.results]
        assert scores == sorted(scores, reverse=True) and all(0 < score < 1 for score in scores)
        assert sorted(each.index for each in ranked.results) == [0, 1, 2, 3]
        assert all(each.document == DOCUMENTS[each.index] for each in ranked.results)
        best = await client.rerank("ranker", "the sea", DOCUMENTS, top_n=1, return_documents=False)
        assert [(each.index, each.document) for each in best.results] == [(ranked.results[0].index, None)]
        assert best.usage.prompt_tokens == ranked.usage.prompt_tokens > 40
        event, _ = await history(client, "usage")
        node = (await client.health_check()).node
        assert of_any_version(event.data) == UsageRecorded(
            model_id="ranker", usage_type="rerank", node=node, requester="key-1"
        )
        assert event.seq == ranked.seq
        await client.embed("bert", "the sea")
        with anyio.fail_after(20):  # its process tells its node after it has answered
            while await anyio.to_thread.run_sync(measured, listen) != {"rank": 2.0, "embeddings": 1.0}:
                await anyio.sleep(0.05)


def measured(listen: str) -> dict[str, float]:
    """How many requests the node that tells its metrics here has measured, by what they were."""
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {
        sample.labels["gen_ai_operation_name"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "gen_ai_server_request_duration_seconds_count"
    }


async def test_tokens_and_prompts_are_those_that_a_generation_has(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    tiny_model(tmp_path / "models" / "tiny.gguf", chat_template=CHAT_TEMPLATE)
    tiny_model(tmp_path / "models" / "plain.gguf")
    async with client_of_node(tmp_path / "models", tmp_path / "suite") as client:
        made = await client.tokenize("tiny", "the sea <s>")
        assert made.count == len(made.tokens) == len(made.pieces or ())
        assert (made.pieces or ())[0] == "<s>" == (made.pieces or ())[-1]
        assert (await client.detokenize("tiny", made.tokens)).text.startswith("<s>")
        as_text = await client.tokenize(
            "tiny", "the sea <s>", add_special=False, parse_special=False, pieces=False
        )
        assert as_text.pieces is None
        assert (await client.detokenize("tiny", as_text.tokens)).text == "the sea <s>"

        of_text = await client.generate_text("tiny", "the sea <s>", max_tokens=1)
        of_ids = await client.generate_text("tiny", list(made.tokens), max_tokens=1)
        assert of_text.usage.prompt_tokens == of_ids.usage.prompt_tokens == made.count
        embedded = await client.embed("tiny", [list(made.tokens), [5, 6]], dimensions=8)
        assert (embedded.dimensions, embedded.usage.prompt_tokens) == (8, made.count + 2)
        with pytest.raises(InvalidRequest, match="vectors have 64"):
            await client.embed("tiny", "the sea", dimensions=65)

        with pytest.raises(InvalidRequest, match="ask for a token at least"):
            await client.generate_text("tiny", "the sea", max_completion_tokens=0)

        chat = [{"role": "user", "content": "the sea"}]
        prompt = await client.apply_template("tiny", chat, system_prompt="be brief")
        assert prompt.text == "[system] be brief\n[user] the sea\n[assistant] "
        said = await client.generate_text("tiny", messages=chat, system_prompt="be brief", max_tokens=1)
        assert prompt.tokens == said.usage.prompt_tokens
        long = await client.apply_template("tiny", [{"role": "user", "content": "the sea " * 400}])
        assert long.tokens > long.context_tokens == 512, "it is counted though it does not fit"
        with pytest.raises(NoChatTemplate):
            await client.apply_template("plain", chat)
        begun = [{"role": "developer", "content": "be kind"}, *chat]
        assert "kind" in (await client.apply_template("tiny", begun)).text
        picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
        with pytest.raises(UnsupportedContent):
            await client.apply_template("tiny", picture)
