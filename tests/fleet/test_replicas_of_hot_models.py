"""A model that is asked for more than its node can serve is loaded on another one too, while that lasts."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import anyio

from suite.client import Client
from suite.messages.events import Event, InstanceLoadStarted, InstanceUnloaded
from support.fleet import fleet
from support.models import slow_model

CONFIG = """
standby = false

[copies]
add_seconds = 0.5
remove_seconds = 1

[models.hot]
slots = 1
"""
SECONDS = 60.0


async def test_a_hot_model_gets_a_copy_and_loses_it(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    slow_model(models / "hot.gguf")
    config = tmp_path / "suite.toml"
    config.write_text(CONFIG)
    nodes = {"box1": models, "box2": models}
    async with fleet(nodes, tmp_path, "--config", str(config)) as found:
        await found.client.load_model("hot")
        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as tasks:
                for _ in range(6):
                    tasks.start_soon(generate, found.client)
                started = await happened(found.client, "instance.*.hot.load_started", number=2)
                tasks.cancel_scope.cancel()
            assert isinstance(started, InstanceLoadStarted)
            assert started.decision is not None and started.decision.purpose == "replica"
            unloaded = await happened(found.client, "instance.*.hot.unloaded")
        assert isinstance(unloaded, InstanceUnloaded)
        assert (unloaded.reason, unloaded.node) == ("spare", started.node)
        told = (await found.client.explain("hot")).events
        assert any("as a replica" in sentence for each in told for sentence in each.sentences)


async def generate(client: Client) -> None:
    await client.generate("hot", "Once", max_tokens=4000).finish()


async def happened(client: Client, filter: str, *, number: int = 1) -> Event:
    """The event of that number under a filter, once it is there."""
    async with aclosing(client.events(filter, follow=True)) as events:
        for _ in range(number - 1):
            await anext(events)
        return (await anext(events)).data
