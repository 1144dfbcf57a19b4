"""Sizes of batches that llama.cpp would not survive."""

from __future__ import annotations

from pathlib import Path

import anyio

from support.models import tiny_model
from support.nodes import client_of_node


async def test_more_slots_than_tokens_in_a_batch_are_served_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    tiny_model(tmp_path / "models" / "tiny.gguf")
    config = tmp_path / "suite.toml"
    config.write_text("[models.tiny]\nbatch_size = 4\nslots = 8\n")
    async with client_of_node(tmp_path / "models", tmp_path / "data", config=config) as client:
        told: list[int] = []

        async def ask(prompt: str) -> None:
            reply = await client.generate_text("tiny", prompt, max_tokens=20, temperature=0)
            told.append(reply.usage.completion_tokens)

        async with anyio.create_task_group() as tasks:
            for number in range(9):
                tasks.start_soon(ask, f"The {number}. of a few long stories about the sea")
        assert told == [20] * 9
