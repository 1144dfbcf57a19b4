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
from support.adapters import adapter
from support.command import Command
from support.fleet import Fleet, fleet
from support.models import smollm2, tiny_model
from support.raw_gguf import Tensor, gguf_bytes
from support.stores import Ollama

PRESENT = dict.fromkeys(("box1", "box2", "box3"), "present")
BIG = "SmolLM2-135M-Instruct.Q4_1"
SETTINGS = """
[models.base]
draft_model = "draft"

[models.captain]
base = "base"
adapters = ["pirate", {id = "poet", scale = 0.5}]
"""
ONLY_THERE = """
[models.duke]
base = "base"
adapters = "poet"
"""


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


CREW = ("draft", "base", "pirate", "poet")
"""What is copied for the name `captain`, in this order."""


@pytest.mark.timeout(180)
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
    shutil.copy(smollm2(), models["box1"] / f"{BIG}.gguf")
    blob = tiny_model(tmp_path / "blob", seed=4).read_bytes()
    Ollama(tmp_path / "ollama").add("registry.ollama.ai/library/stored/1b", blob)
    crew(models["box1"])
    shutil.copy(models["box1"] / "base.gguf", models["box2"])
    for name, text in (("all", SETTINGS), ("box1", SETTINGS + ONLY_THERE)):
        (tmp_path / f"{name}.toml").write_text(text)
    several = {name: models[name] for name in ("box2", "box3")}
    own = ("--config", str(tmp_path / "box1.toml"), "--models-dir", str(tmp_path / "ollama"))
    async with fleet(several, tmp_path, "--config", str(tmp_path / "all.toml")) as found:
        async with found.node("box1", models["box1"], *own):
            await found.acquainted()
            await small_models_are_copied(found, models)
            await what_a_name_needs_is_copied(found, models)
            await what_is_cut_goes_on(found, models)
            await other_content_is_removed(found, models)
            assert await stored(found) == 0
    split = {name: content for name, content in files(models["box1"]).items() if name.startswith("big-")}
    shared = {"publisher/shared.gguf": files(models["box1"])["publisher/shared.gguf"]}
    untouched = {"taken.gguf": tiny_model(tmp_path / "again", seed=3).read_bytes()}
    big = {f"{BIG}.gguf": smollm2().read_bytes()}
    needed = {f"{name}.gguf": (models["box1"] / f"{name}.gguf").read_bytes() for name in CREW}
    assert files(models["box3"]) == split | shared | untouched | big | needed | {"stored:1b.gguf": blob}


def crew(directory: Path) -> None:
    """Write a model, its draft model and two adapters."""
    base = tiny_model(directory / "base.gguf", embedding=128)
    tiny_model(directory / "draft.gguf", seed=5)
    for number, name in enumerate(("pirate", "poet")):
        adapter(directory / f"{name}.gguf", base, seed=number)


async def small_models_are_copied(found: Fleet, models: Mapping[str, Path]) -> None:
    client = found.client
    reply = await client.push_model("shared")
    assert (reply.node, states(reply)) == ("box1", PRESENT | {"box3": "copied"})
    assert [each.model_id for each in reply.nodes] == ["shared", "known", "shared"]
    answer = await client.on_node("box3").generate_text("shared", "Once", max_tokens=2)
    assert answer.usage.completion_tokens == 2

    reply = await client.push_model("big", ["box2", "box3", "box1"])
    assert states(reply) == PRESENT | {"box2": "copied", "box3": "copied"}
    assert states(await client.push_model("big")) == PRESENT

    reply = await client.push_model("stored:1b", ["box3"])
    assert [(each.state, each.model_id) for each in reply.nodes] == [("copied", "stored:1b")]

    (failure,) = (await client.on_node("box1").push_model("taken", ["box3"])).nodes
    assert failure.code == FileNameTaken.code
    assert f"remove {models['box3'] / 'taken.gguf'}" in str(failure.message)
    await told_on_the_command_line(found, models)

    with pytest.raises(NodeNotFound, match="there are box1, box2, box3"):
        await client.push_model("shared", ["box9"])
    with pytest.raises(ModelNotFound):
        await client.push_model("nothing")


async def what_a_name_needs_is_copied(found: Fleet, models: Mapping[str, Path]) -> None:
    """box2 has the base and the settings, box3 the settings alone."""
    client = found.client
    reply = await client.push_model("captain", ["box2", "box3"])
    assert (reply.model_id, reply.node) == ("captain", "box1")
    assert reply.bytes == sum((models["box1"] / f"{name}.gguf").stat().st_size for name in CREW)
    copied = {each.node: each.copied for each in reply.nodes}
    assert copied == {"box2": ("draft", "pirate", "poet"), "box3": CREW}
    assert [(each.state, each.model_id, each.message) for each in reply.nodes] == [
        ("copied", "captain", None),
        ("copied", "captain", None),
    ]
    for node in ("box2", "box3"):
        there = await client.on_node(node).generate_text("captain", "Once", max_tokens=2)
        assert [each.id for each in there.adapters] == ["pirate", "poet"]
        told = (await client.on_node(node).get_model_status("base")).model
        assert told is not None and told.draft_model == "draft"
    again = await client.push_model("captain", ["box2", "box3"])
    assert [(each.state, each.copied) for each in again.nodes] == [("present", ())] * 2

    (lacking,) = (await client.push_model("duke", ["box2"])).nodes
    assert (lacking.state, lacking.model_id) == ("present", "duke")
    assert str(lacking.message).startswith("duke is no name there, as settings are not copied: set base and")


async def told_on_the_command_line(found: Fleet, models: Mapping[str, Path]) -> None:
    operator = found.server.operator
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("SUITE_NATS_URL", operator.url)
        environ.setenv("SUITE_NATS_USER", str(operator.user))
        environ.setenv("SUITE_NATS_PASSWORD", str(operator.password))
        first = models["box2"] / "big-00001-of-00002.gguf"
        assert await Command().lines("push", "big", "box2") == [f"box2: big was there already, as {first}"]
        refused = await Command().run("push", "taken", "box2", "box3", "--from", "box1")
    assert refused.returncode == 1
    assert refused.stdout.startswith("box2: taken is there (") and "SHA-256 checked" in refused.stdout
    assert refused.stderr.startswith("box3: box3 has another file under the id taken")


async def what_is_cut_goes_on(found: Fleet, models: Mapping[str, Path]) -> None:
    """Kill box3 when it has a part of a big model, and push that again once it is back."""
    with anyio.CancelScope() as scope:

        def kill(copying: Copying) -> None:
            if copying.bytes:
                found.nodes["box3"].process.kill()
                scope.cancel()

        await found.client.push_model(BIG, ["box3"], on_progress=kill)
    assert scope.cancelled_caught
    await found.nodes["box3"].process.wait()
    part = models["box3"] / f"{BIG}.gguf.part"
    left = part.stat().st_size // PART_BYTES * PART_BYTES
    assert 0 < left < smollm2().stat().st_size
    async with found.node("box3", models["box3"]), asked_of(found, "box1") as offsets:
        await found.acquainted()
        assert states(await found.client.push_model(BIG, ["box3"])) == {"box3": "copied"}
    assert offsets[0] == left
    del found.nodes["box3"]


async def other_content_is_removed(found: Fleet, models: Mapping[str, Path]) -> None:
    """Change a file while it is pushed."""

    def spoil(_: Copying) -> None:
        with (models["box1"] / f"{BIG}.gguf").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"x")

    pushing = found.client.on_node("box1").push_model(BIG, ["box2"], on_progress=spoil)
    (pushed,) = (await pushing).nodes
    assert (pushed.state, pushed.code) == ("failed", DigestMismatch.code)
    assert not [name for name in files(models["box2"]) if name.startswith(BIG)]


@asynccontextmanager
async def asked_of(found: Fleet, node: str) -> AsyncIterator[list[int]]:
    """The offsets of the parts that others ask a node for."""
    offsets: list[int] = []

    async def note(message: Message) -> None:
        offsets.append(msgspec.json.decode(message.data, type=GetPart).offset)

    async with Connection.open(found.server.access, name="test") as connection:
        await connection.subscribe(f"suite.actor.{node}.part", note)
        yield offsets
