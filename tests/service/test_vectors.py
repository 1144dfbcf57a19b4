"""Vectors as clients get them, and what of them is in the log."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.errors import CannotEmbed, CannotGenerate
from suite.messages.events import UsageRecorded
from support.encoder import EMBEDDING, tiny_bert
from support.models import tiny_model
from support.nodes import client_of_node
from support.raw_gguf import KEYS, gguf_bytes
from support.service import history, of_any_version


async def test_a_request_for_vectors_counts_as_usage(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    tiny_model(tmp_path / "models" / "tiny.gguf")
    async with client_of_node(tmp_path / "models", tmp_path / "suite") as client:
        embedded = await client.embed("tiny", ["the sea", "a stone"])
        assert embedded.usage.prompt_tokens > 2
        (event,) = await history(client, "usage")
        assert event.seq == embedded.seq
        node = (await client.health_check()).node
        assert of_any_version(event.data) == UsageRecorded(model_id="tiny", usage_type="embedding", node=node)
        counted = await client.usage(group_by=("model", "usage_type"), min_seq=embedded.seq)
        assert [(each.model_id, each.usage_type, each.uses) for each in counted.usage] == [
            ("tiny", "embedding", 1)
        ]


async def test_a_model_that_cannot_answer_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    tiny_bert(tmp_path / "models" / "bert.gguf")
    t5 = {key.replace("llama.", "t5."): value for key, value in KEYS.items()}
    content = gguf_bytes({**dict.fromkeys(KEYS), **t5, "general.architecture": "t5"})
    (tmp_path / "models" / "t5.gguf").write_bytes(content)
    async with client_of_node(tmp_path / "models", tmp_path / "suite") as client:
        for model_id in ("bert", "t5"):
            with pytest.raises(CannotGenerate):
                await client.generate_text(model_id, "the sea")
        with pytest.raises(CannotEmbed):
            await client.embed("t5", "the sea")
        assert await history(client, "instance") == []
        status = (await client.get_model_status("bert")).model
        assert status is not None
        assert status.kv_cache is None
        assert (await client.embed("bert", "the sea")).dimensions == EMBEDDING
