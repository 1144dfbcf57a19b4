"""A promotion where memory is short: other models that are used all the time do not hold it up for ever."""

from __future__ import annotations

from pathlib import Path

import anyio

from suite.client import Client
from suite.errors import ModelNotFound
from suite.messages.events import CanaryStarted, InstanceUnloaded
from support.models import slow_model
from support.service import history, service_and_client

CONFIG = """
memory_limit_gb = {limit}
turn_seconds = 0.5
models.old.n_threads = 1
models.new.n_threads = 1
models.other.n_threads = 1
"""


async def known(client: Client, *model_ids: str) -> None:
    """Wait until the log knows the versions of these models."""
    for each in model_ids:
        while True:
            try:
                if (await client.list_versions(each)).versions:
                    break
            except ModelNotFound:
                pass
            await anyio.sleep(0.05)


async def test_a_version_gets_its_turn_for_memory_that_others_use_all_the_time(tmp_path: Path) -> None:
    models, config = tmp_path / "models", tmp_path / "suite.toml"
    models.mkdir()
    for name in ("old", "new", "other"):
        slow_model(models / f"{name}.gguf")
    # Room for two and not for three: a model takes 329 MiB as estimated, and 205 once another was measured.
    config.write_text(CONFIG.format(limit=0.68))
    service = service_and_client(models, tmp_path / "data", "--config", str(config))
    async with service as (_, client), anyio.create_task_group() as users:
        await known(client, "old", "new", "other")
        await client.set_alias("chat", "old@1")
        for name in ("old", "other"):
            await client.load_model(name)

        async def use() -> None:
            while True:
                await client.generate_text("other", "Once", max_tokens=40)

        for _ in range(3):
            users.start_soon(use)
        await client.promote_alias("chat", "new@1", canary_share=0.1)
        with anyio.fail_after(40):
            while True:
                (alias,) = (await client.list_aliases("chat")).aliases
                if alias.promotion is None or alias.promotion.state == "canary":
                    break
                await anyio.sleep(0.1)
        assert alias.promotion is not None, "it goes on"
        events = [each.data for each in await history(client)]
        users.cancel_scope.cancel()
    canary = next(place for place, each in enumerate(events) if isinstance(each, CanaryStarted))
    left = [each.model_id for each in events[:canary] if isinstance(each, InstanceUnloaded)]
    assert left[0] == "other", "what serves does not leave for it"
