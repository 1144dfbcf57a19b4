"""Whichever node takes a request, the one serves it that can do so best."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.errors import AdapterNotFound, Disabled, NodeNotFound
from support.adapters import adapter
from support.fleet import Fleet, fleet
from support.models import tiny_model


@pytest.mark.timeout(180)
async def test_a_model_that_only_one_node_has_is_served_whoever_takes_the_request(tmp_path: Path) -> None:
    models = {name: tmp_path / f"models-{name}" for name in ("box1", "box2", "box3")}
    for name, directory in models.items():
        directory.mkdir()
        tiny_model(directory / f"of-{name}.gguf")
    for name in ("box1", "box2"):
        tiny_model(models[name] / "shared.gguf", embedding=128)
    adapter(models["box1"] / "pirate.gguf", models["box1"] / "shared.gguf")
    async with fleet(models, tmp_path) as found:
        for name in [*models] * 10:
            reply = await found.client.generate_text(f"of-{name}", "Once", max_tokens=2)
            assert reply.usage.completion_tokens == 2
        await adapters_are_found_and_copied(found)
        with pytest.raises(NodeNotFound, match="there are box1, box2, box3"):
            await found.client.on_node("box9").health_check()
        (tmp_path / "off.toml").write_text("enable_gguf_management = false\n")
        async with found.node("box4", models["box1"], "--config", str(tmp_path / "off.toml")):
            await found.acquainted()
            for name in [*models] * 10:
                assert (await found.client.tokenize(f"of-{name}", "Once")).tokens
            for _ in range(10):  # also what each node answers for itself, and one gathers
                found_models = (await found.client.list_models()).models
                shared = {"shared", "pirate"}
                assert {each.model_id for each in found_models} == shared | {f"of-{name}" for name in models}
            with pytest.raises(Disabled, match="enable_gguf_management"):
                await found.client.on_node("box4").load_model("of-box1")


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
