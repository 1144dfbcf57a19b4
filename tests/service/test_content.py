"""Answers come from the weights in the file, whatever its size and times say. Touching it changes nothing."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

import anyio
import pytest

from suite.catalogue.digests import fingerprint
from suite.client import Client
from suite.engine.snapshots.folder import content_folder, folder_of
from suite.errors import ActorCrashed, ConversationGone, ModelUnloading
from suite.messages.actions.generation import GenerateTextReply
from suite.messages.actions.status import ModelInfo
from suite.messages.events import InstanceUnloaded, ModelRegistered
from support.models import slow_model, tiny_model
from support.nodes import client_of_node
from support.service import facts, history, service_and_client

STORY = "The keeper climbed the stairs and looked at the sea every evening of his life."
PATIENCE = 20.0


async def tell(client: Client, conversation_id: str) -> GenerateTextReply:
    return await client.generate_text(
        "tiny", conversation_id + STORY, max_tokens=8, temperature=0, conversation_id=conversation_id
    )


async def status(client: Client) -> ModelInfo:
    model = (await client.get_model_status("tiny")).model
    assert model is not None
    return model


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(PATIENCE):
        while not await condition():
            await anyio.sleep(0.05)


def keep_times(path: Path, times: os.stat_result) -> None:
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)


async def registered(client: Client) -> list[str]:
    events = await history(client, "model.>")
    return [event.data.sha256 for event in events if isinstance(event.data, ModelRegistered)]


async def test_no_answer_goes_on_from_a_state_of_other_weights(tmp_path: Path) -> None:
    models, data = tmp_path / "models", tmp_path / "data"
    models.mkdir()
    path = tiny_model(models / "tiny.gguf")
    one, two = path.read_bytes(), tiny_model(tmp_path / "other.gguf", seed=1).read_bytes()
    times, first, second = path.stat(), sha256(one).hexdigest(), sha256(two).hexdigest()

    async with client_of_node(models, data) as client:
        of_one = await tell(client, "a")
        await until(lambda: known_as(client, first))
        await client.unload_model("tiny")

    # Replaced while nobody looked, as rsync and tar do it.
    keep_times((tmp_path / "other.gguf").rename(path), times)
    async with client_of_node(models, data) as client:
        with pytest.raises(ConversationGone):
            await client.generate_text("tiny", "And then", max_tokens=1, conversation_id="a", continue_=True)
        of_two = await tell(client, "a")
        assert of_two.usage.reused_tokens == 0
        assert of_two.text != of_one.text
        await until(lambda: known_as(client, second))
        loaded = (await status(client)).instance
        assert loaded is not None
        assert loaded.sha256 == second

        await nothing_happens_when_it_is_touched(client, path, data)

        # Rewritten under the loaded model, which goes on from what it computed with weights that are gone.
        states = content_folder(folder_of(data / "snapshots", "tiny"), second)
        await until(lambda: has_files(states, True))
        path.write_bytes(one)
        keep_times(path, times)
        await tell(client, "b")
        await until(lambda: known_as(client, first))
        await until(lambda: is_unloaded(client))
        unloaded = (await history(client, "instance.>"))[-1].data
        assert isinstance(unloaded, InstanceUnloaded)
        assert unloaded.reason == "file_changed"
        await until(lambda: has_files(states, False))
        again = await tell(client, "a")
        assert (again.text, again.usage.reused_tokens > 0) == (of_one.text, True)

        # A single byte that no look at some of the file would find.
        third = flip_a_byte(path)
        keep_times(path, times)
        await until(lambda: known_as(client, third))
        await until(lambda: is_unloaded(client))
        assert await registered(client) == [first, second, first, third]


async def test_a_generation_cut_by_a_change_of_its_file_is_told_so(tmp_path: Path) -> None:
    models, path = tmp_path / "models", tmp_path / "models" / "slow.gguf"
    models.mkdir()
    whole = slow_model(path).read_bytes()
    environ = {"SUITE_DRAIN_SECONDS": "0"}
    async with service_and_client(models, tmp_path / "data", environ=environ) as (service, client):
        with pytest.raises(ModelUnloading, match=r"file has changed.*uses the new file"):
            async for chunk in client.generate("slow", "x", max_tokens=4000):
                if chunk.index == 0:
                    (tmp_path / "new.gguf").write_bytes(whole[:-1] + b"\x01")
                    (tmp_path / "new.gguf").rename(path)
        with pytest.raises(ActorCrashed, match=r"overwritten or cut short.*\(mv\)"):
            async for chunk in client.generate("slow", "x", max_tokens=4000):
                if chunk.index == 0:
                    os.truncate(path, 4096)
        said = service.errors.read_text()
        assert "slow crashed with exit code -7 (SIGBUS: the model's file" in said
        assert "it said nothing" in said
        assert "suite.llama" not in said
        assert "watchfiles" not in said


def flip_a_byte(path: Path) -> str:
    """Change a byte of the weights that the file's fingerprint does not cover; the new digest."""
    before, content = fingerprint([path]), bytearray(path.read_bytes())
    for at in range(len(content) // 2, len(content), 2048):
        content[at] ^= 1
        path.write_bytes(content)
        if fingerprint([path]) == before:
            return sha256(content).hexdigest()
        content[at] ^= 1
    raise AssertionError("the fingerprint covers all of the file")


async def known_as(client: Client, digest: str) -> bool:
    return (await status(client)).sha256 == digest


async def has_files(folder: Path, some: bool) -> bool:
    return bool([each async for each in anyio.Path(folder).rglob("*.kv")]) is some


async def is_unloaded(client: Client) -> bool:
    return (await status(client)).instance is None


async def nothing_happens_when_it_is_touched(client: Client, path: Path, data: Path) -> None:
    before, events = await status(client), await history(client)
    assert before.instance is not None
    changed = touch(path)
    await until(lambda: hashed_again(changed, data))
    await until(lambda: known_as(client, before.sha256 or ""))
    after = await status(client)
    assert after.instance is not None
    assert (after.instance.instance_id, after.instance.sha256) == (before.instance.instance_id, before.sha256)
    assert facts(await history(client)) == facts(events)
    assert (await tell(client, "a")).usage.reused_tokens > 0


def touch(path: Path) -> int:
    """Change all that can be changed of a file but its content; the time of that."""
    path.touch()
    path.chmod(0o600)
    link = path.with_name("link")
    link.hardlink_to(path)
    link.unlink()
    return path.stat().st_ctime_ns


async def hashed_again(changed: int, data: Path) -> bool:
    return str(changed).encode() in (data / "digests.json").read_bytes()
