"""A model that one node has comes to the others: whole, checked, and never over another file."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from suite.bus.connection import Connection, Message
from suite.errors import DigestMismatch, FileNameTaken, ModelNotFound, NodeNotFound
from suite.messages.actions.transfers import PushModelReply
from suite.messages.signals import Copying
from suite.messages.transfers import GetPart
from suite.node.transfers.parts import PART_BYTES
from support.fleet import Fleet, fleet
from support.models import smollm2, tiny_model
from support.raw_gguf import Tensor, gguf_bytes
from support.stores import Ollama

BIG = "SmolLM2-135M-Instruct.Q4_1"


def directories(top: Path, *names: str) -> dict[str, Path]:
    found = {name: top / f"models-{name}" for name in names}
    for path in found.values():
        path.mkdir()
    return found


def states(reply: PushModelReply) -> Mapping[str, str]:
    return {each.node: each.state for each in reply.nodes}


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


async def stored(found: Fleet) -> int:
    """How many messages the object store has."""
    async with Connection.open(found.server.access, name="test") as connection:
        answer = await connection.request("$JS.API.STREAM.INFO.OBJ_SUITE_FILES", timeout=5)
    count: int = msgspec.json.decode(answer.data)["state"]["messages"]
    return count


async def test_models_come_to_nodes_that_have_them_not_and_no_other_file_is_touched(tmp_path: Path) -> None:
    models = directories(tmp_path, "box1", "box2", "box3")
    (models["box1"] / "publisher").mkdir()
    tiny_model(models["box1"] / "publisher" / "shared.gguf", seed=1)
    shutil.copy(models["box1"] / "publisher" / "shared.gguf", models["box2"] / "known.gguf")
    for number in (1, 2):
        keys = {"split.no": number - 1, "split.count": 2}
        content = gguf_bytes(keys, tensors=(Tensor(f"blk.{number}.attn_q.weight"),))
        (models["box1"] / f"big-{number:05}-of-00002.gguf").write_bytes(content)
    tiny_model(models["box1"] / "taken.gguf", seed=2)
    tiny_model(models["box3"] / "taken.gguf", seed=3)
    before = files(models["box3"])
    async with fleet(models, tmp_path) as found:
        client = found.client
        reply = await client.push_model("shared")
        assert (reply.node, states(reply)) == ("box1", {"box2": "present", "box3": "copied"})
        assert {each.node: each.model_id for each in reply.nodes} == {"box2": "known", "box3": "shared"}
        answer = await client.on_node("box3").generate_text("shared", "Once", max_tokens=2)
        assert answer.usage.completion_tokens == 2

        reply = await client.push_model("big", ["box2", "box3", "box1"])
        assert states(reply) == {"box1": "present", "box2": "copied", "box3": "copied"}
        assert states(await client.push_model("big")) == {"box2": "present", "box3": "present"}

        reply = await client.on_node("box1").push_model("taken")
        assert states(reply) == {"box2": "copied", "box3": "failed"}
        failure = reply.nodes[1]
        assert failure.code == FileNameTaken.code
        assert f"remove {models['box3'] / 'taken.gguf'}" in str(failure.message)

        with pytest.raises(NodeNotFound, match="there are box1, box2, box3"):
            await client.push_model("shared", ["box9"])
        with pytest.raises(ModelNotFound):
            await client.push_model("nothing")
        assert await stored(found) == 0
    split = {name: content for name, content in files(models["box1"]).items() if name.startswith("big-")}
    shared = {"publisher/shared.gguf": files(models["box1"])["publisher/shared.gguf"]}
    assert files(models["box3"]) == before | split | shared


@asynccontextmanager
async def asked_of(found: Fleet, node: str) -> AsyncIterator[list[int]]:
    """The offsets of the parts that others ask a node for."""
    offsets: list[int] = []

    async def note(message: Message) -> None:
        offsets.append(msgspec.json.decode(message.data, type=GetPart).offset)

    async with Connection.open(found.server.access, name="test") as connection:
        await connection.subscribe(f"suite.actor.{node}.part", note)
        yield offsets


async def test_a_copy_that_was_cut_goes_on_and_one_of_other_content_is_removed(tmp_path: Path) -> None:
    models = directories(tmp_path, "box1", "box2", "box3")
    source = models["box1"] / f"{BIG}.gguf"
    shutil.copy(smollm2(), source)
    stored_model = tiny_model(tmp_path / "blob").read_bytes()
    Ollama(tmp_path / "ollama").add("registry.ollama.ai/library/stored/1b", stored_model)
    async with (
        fleet({"box2": models["box2"]}, tmp_path) as found,
        found.node("box1", models["box1"], "--models-dir", str(tmp_path / "ollama")),
    ):
        await found.acquainted()
        reply = await found.client.push_model("stored:1b")
        assert (states(reply), reply.nodes[0].model_id) == ({"box2": "copied"}, "stored:1b")
        assert (models["box2"] / "stored:1b.gguf").read_bytes() == stored_model

        await cut_in_the_middle(found, models["box3"])
        part = models["box3"] / f"{BIG}.gguf.part"
        assert 0 < part.stat().st_size < source.stat().st_size
        left = part.stat().st_size // PART_BYTES * PART_BYTES
        async with found.node("box3", models["box3"]), asked_of(found, "box1") as offsets:
            await found.acquainted()
            assert states(await found.client.push_model(BIG, ["box3"])) == {"box3": "copied"}
            assert offsets[0] == left > 0
        assert files(models["box3"]) == {source.name: source.read_bytes()}

        def spoil(_: Copying) -> None:
            with source.open("r+b") as file:
                file.seek(-1, 2)
                file.write(b"spoilt"[:1])

        (pushed,) = (await found.client.push_model(BIG, ["box2"], on_progress=spoil)).nodes
        assert (pushed.state, pushed.code) == ("failed", DigestMismatch.code)
        assert not [name for name in files(models["box2"]) if name.startswith(BIG)]
        assert await stored(found) == 0


async def cut_in_the_middle(found: Fleet, models: Path) -> None:
    """Push a big model to box3, and kill box3 when it has a part of it."""
    async with found.node("box3", models) as box3:
        await found.acquainted()
        with anyio.CancelScope() as scope:

            def kill(copying: Copying) -> None:
                if copying.bytes:
                    box3.process.kill()
                    scope.cancel()

            await found.client.push_model(BIG, ["box3"], on_progress=kill)
        assert scope.cancelled_caught
    del found.nodes["box3"]
