"""Whichever node takes a request, the one serves it that can do so best."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from suite.errors import AdapterNotFound, Disabled, NodeNotFound, UnsupportedContent
from support.adapters import adapter
from support.fleet import Fleet, fleet
from support.models import CHAT_TEMPLATE, tiny_model
from support.pictures import in_base64, picture
from support.projector import END, START, tiny_projector


@pytest.mark.timeout(180)
async def test_a_model_that_only_one_node_has_is_served_whoever_takes_the_request(tmp_path: Path) -> None:
    models = {name: tmp_path / f"models-{name}" for name in ("box1", "box2", "box3")}
    for name, directory in models.items():
        directory.mkdir()
        tiny_model(directory / f"of-{name}.gguf")
    for name in ("box1", "box2"):
        tiny_model(models[name] / "shared.gguf", embedding=128)
        tiny_model(models[name] / "seeing.gguf", control=[START, END], chat_template=CHAT_TEMPLATE)
    adapter(models["box1"] / "pirate.gguf", models["box1"] / "shared.gguf")
    tiny_projector(models["box1"] / "mmproj-model-f16.gguf")
    async with fleet(models, tmp_path) as found:
        for name in [*models] * 10:
            reply = await found.client.generate_text(f"of-{name}", "Once", max_tokens=2)
            assert reply.usage.completion_tokens == 2
        await adapters_are_found_and_copied(found)
        await projectors_are_found_and_copied(found, models)
        with pytest.raises(NodeNotFound, match="there are box1, box2, box3"):
            await found.client.on_node("box9").health_check()
        (tmp_path / "off.toml").write_text("enable_gguf_management = false\n")
        async with found.node("box4", models["box1"], "--config", str(tmp_path / "off.toml")):
            await found.acquainted()
            for name in [*models] * 10:
                assert (await found.client.tokenize(f"of-{name}", "Once")).tokens
            for _ in range(10):  # also what each node answers for itself, and one gathers
                found_models = (await found.client.list_models()).models
                shared = {"shared", "pirate", "seeing", "mmproj-model-f16", "mmproj-seeing"}
                assert {each.model_id for each in found_models} == shared | {f"of-{name}" for name in models}
            with pytest.raises(Disabled, match="enable_gguf_management"):
                await found.client.on_node("box4").load_model("of-box1")


async def projectors_are_found_and_copied(found: Fleet, models: Mapping[str, Path]) -> None:
    """Who has the model alone gets no pictures, even if it is loaded there, until it gets the projector."""
    client = found.client
    red = {"type": "image", "data": in_base64(picture((255, 0, 0)))}
    pictures = [{"role": "user", "content": [red, {"type": "text", "text": "what is it?"}]}]
    text = [{"role": "user", "content": "what is it?"}]
    blind = client.on_node("box2")
    assert (await blind.generate_text("seeing", messages=text, max_tokens=1)).node == "box2"
    for _ in range(6):
        assert (await client.generate_text("seeing", messages=pictures, max_tokens=1)).node == "box1"
    with pytest.raises(UnsupportedContent, match="seeing reads none: it has no projector"):
        await blind.generate_text("seeing", messages=pictures)
    pushed = await client.push_model("seeing", ["box2", "box3"])
    assert {each.node: each.state for each in pushed.nodes} == {"box2": "copied", "box3": "copied"}
    files = (models["box1"] / "seeing.gguf", models["box1"] / "mmproj-model-f16.gguf")
    assert pushed.bytes == sum(each.stat().st_size for each in files)
    for node in ("box2", "box3"):
        assert (models[node] / "mmproj-seeing.gguf").read_bytes() == files[1].read_bytes()
        there = await client.on_node(node).generate_text("seeing", messages=pictures, max_tokens=1)
        assert there.node == node, "also where it was loaded without"
    again = await client.push_model("seeing", ["box2"])
    assert [each.state for each in again.nodes] == ["present"]


async def adapters_are_found_and_copied(found: Fleet) -> None:
    """Who has the model alone does not get what is to be computed with an adapter."""
    client = found.client
    assert (await client.on_node("box2").generate_text("shared", "Once", max_tokens=2)).node == "box2"
    for _ in range(6):
        for model, adapters in (("pirate", ()), ("shared", ("pirate",))):
            reply = await client.generate_text(model, "Once", max_tokens=2, adapters=adapters)
            assert (reply.node, reply.model_id, [each.id for each in reply.adapters]) == (
                "box1",
                "shared",
                ["pirate"],
            )
            assert reply.variant == ("pirate" if model == "pirate" else None)
    with pytest.raises(AdapterNotFound):
        await client.on_node("box2").generate_text("shared", "Once", adapters="pirate")
    (pushed,) = (await client.push_model("pirate", ["box2"])).nodes
    assert (pushed.state, pushed.model_id) == ("copied", "pirate")
    there = await client.on_node("box2").generate_text("pirate", "Once", max_tokens=2)
    assert (there.node, there.model_id) == ("box2", "shared")
    assert [each.state for each in (await client.push_model("pirate", ["box2"])).nodes] == ["present"]
