"""Vectors as clients get them, and what of them is in the log."""

from __future__ import annotations

from pathlib import Path

from suite.messages.events import UsageRecorded
from support.models import tiny_model
from support.service import history, service_and_client


async def test_a_request_for_vectors_counts_as_usage(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    tiny_model(tmp_path / "models" / "tiny.gguf")
    async with service_and_client(tmp_path / "models", tmp_path / "suite") as (_, client):
        embedded = await client.embed("tiny", ["the sea", "a stone"])
        assert embedded.usage.prompt_tokens > 2
        (event,) = await history(client, "usage")
        assert event.seq == embedded.seq
        assert event.data == UsageRecorded(model_id="tiny", usage_type="embedding")
        counted = await client.usage(group_by=("model", "usage_type"), min_seq=embedded.seq)
        assert [(each.model_id, each.usage_type, each.uses) for each in counted.usage] == [
            ("tiny", "embedding", 1)
        ]
