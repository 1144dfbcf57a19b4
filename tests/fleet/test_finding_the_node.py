"""Whichever node takes a request, the one serves it that can do so best."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.errors import Disabled, NodeNotFound
from support.fleet import fleet
from support.models import tiny_model


async def test_a_model_that_only_one_node_has_is_served_whoever_takes_the_request(tmp_path: Path) -> None:
    models = {name: tmp_path / f"models-{name}" for name in ("box1", "box2", "box3")}
    for name, directory in models.items():
        directory.mkdir()
        tiny_model(directory / f"of-{name}.gguf")
    async with fleet(models, tmp_path) as found:
        for name in [*models] * 10:
            reply = await found.client.generate_text(f"of-{name}", "Once", max_tokens=2)
            assert reply.usage.completion_tokens == 2
        with pytest.raises(NodeNotFound, match="there are box1, box2, box3"):
            await found.client.on_node("box9").health_check()
        (tmp_path / "off.toml").write_text("enable_gguf_management = false\n")
        async with found.node("box4", models["box1"], "--config", str(tmp_path / "off.toml")):
            await found.acquainted()
            for name in [*models] * 10:
                assert (await found.client.tokenize(f"of-{name}", "Once")).tokens
            for _ in range(10):  # also what each node answers for itself, and one gathers
                found_models = (await found.client.list_models()).models
                assert {each.model_id for each in found_models} == {f"of-{name}" for name in models}
            with pytest.raises(Disabled, match="enable_gguf_management"):
                await found.client.on_node("box4").load_model("of-box1")
