"""What is likely to be used is loaded, and stays."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import anyio

from suite.client import Client
from suite.messages.envelope import Recorded
from support.models import tiny_model
from support.service import facts, history, service_and_client

CONFIG = """
enable_predictive_loading = true
prediction_interval_seconds = 0.1
idle_timeout_seconds = 0.5
"""


async def test_a_predicted_model_does_not_go_and_come_with_the_idle_timeout(tmp_path: Path) -> None:
    tiny_model(tmp_path / "likely.gguf")
    tiny_model(tmp_path / "other.gguf", seed=1)
    config = tmp_path / "suite.toml"
    config.write_text(CONFIG)
    async with service_and_client(tmp_path, tmp_path / "data", "--config", str(config)) as (_, client):
        await client.record_usage("likely")
        with anyio.fail_after(30):
            await happened(client, "instance.*.likely.loaded")
            await client.load_model("other")
            # It was loaded later, so the likely one would have gone before it.
            await happened(client, "instance.*.other.unloaded")
        assert facts(await history(client, "instance.*.likely.*")) == [
            "instance.load_started",
            "instance.loaded",
        ]


async def happened(client: Client, filter: str) -> Recorded:
    async with aclosing(client.events(filter, follow=True)) as events:
        return await anext(events)
