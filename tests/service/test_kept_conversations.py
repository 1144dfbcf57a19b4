"""What is kept of conversations on disk, seen by clients and in the node's directory."""

from __future__ import annotations

import os
import time
from pathlib import Path

import anyio

from suite.client import Client
from suite.engine.snapshots.folder import SUPERSEDED, WHOLE
from suite.messages.actions.generation import GenerateTextReply
from support.models import tiny_model
from support.nodes import client_of_node
from support.service import service_and_client

STORY = "The keeper climbed the stairs and looked at the sea every evening of his life."
PATIENCE = 20.0


async def tell(client: Client, conversation_id: str = "a", model_id: str = "tiny") -> GenerateTextReply:
    return await client.generate_text(
        model_id, STORY, max_tokens=5, temperature=0, conversation_id=conversation_id
    )


def files(data_dir: Path) -> list[Path]:
    return [path for path in (data_dir / "snapshots").rglob("*") if path.suffix in (WHOLE, SUPERSEDED)]


async def wait_for_files(data_dir: Path, count: int) -> None:
    with anyio.fail_after(PATIENCE):
        while len(files(data_dir)) != count:
            await anyio.sleep(0.05)


async def test_what_is_forgotten_after_an_unload_is_told_and_gone(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        first = await tell(client)
        await tell(client, "b")
        await client.unload_model("tiny")
        assert len(files(tmp_path / "data")) == 2
        cleared = await client.clear_kv_cache(model_id="tiny", conversation_id="a")
        tokens = first.usage.prompt_tokens + first.usage.completion_tokens - 1
        assert (cleared.cleared_conversations, cleared.cleared_tokens) == (1, tokens)
        assert f"{tokens} tokens of 1 conversation" in cleared.message
        again = await client.clear_kv_cache(conversation_id="a")
        assert (again.cleared_conversations, again.message) == (0, "there was nothing to forget")
        assert len(files(tmp_path / "data")) == 1


async def test_two_models_of_one_content_keep_their_conversations_apart(tmp_path: Path) -> None:
    content = tiny_model(tmp_path / "one.gguf").read_bytes()
    (tmp_path / "two.gguf").write_bytes(content)
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        await tell(client, "a", "one")
        await tell(client, "a", "two")
        for model_id in ("one", "two"):
            await client.unload_model(model_id)
        assert len({path.parent for path in files(tmp_path / "data")}) == 2
        for count, model_id in ((1, "one"), (0, "two")):
            assert (await client.clear_kv_cache(model_id=model_id)).cleared_conversations == 1
            assert len(files(tmp_path / "data")) == count


async def test_of_a_model_that_was_removed_everything_can_be_forgotten(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    file = tiny_model(tmp_path / "models" / "tiny.gguf")
    async with client_of_node(tmp_path / "models", tmp_path / "data") as client:
        await tell(client)
        await wait_for_files(tmp_path / "data", 1)
        await client.unload_model("tiny")
        file.unlink()
    async with client_of_node(tmp_path / "models", tmp_path / "data") as client:
        assert len(files(tmp_path / "data")) == 1
        assert (await client.clear_kv_cache()).cleared_conversations == 1
        assert files(tmp_path / "data") == []


async def test_a_start_removes_what_has_expired_and_all_once_it_is_switched_off(
    tmp_path: Path,
) -> None:
    (tmp_path / "models").mkdir()
    tiny_model(tmp_path / "models" / "tiny.gguf")
    data = tmp_path / "data"
    async with client_of_node(tmp_path / "models", data) as client:
        await tell(client)
        await tell(client, "b")
    expired, _ = files(data)
    long_ago = time.time() - 3700
    os.utime(expired, (long_ago, long_ago))
    async with service_and_client(tmp_path / "models", data):
        await wait_for_files(data, 1)
    config = tmp_path / "suite.toml"
    config.write_text("[snapshots]\nenabled = false\n")
    async with service_and_client(tmp_path / "models", data, "--config", str(config)):
        await wait_for_files(data, 0)
