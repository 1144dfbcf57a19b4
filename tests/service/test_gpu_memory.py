"""The memory of GPUs as a budget of its own; the real service, with a recorded table of GPUs.

Its llama.cpp computes on the CPU. What is reserved on a GPU before the first load is estimated all the same,
and what is measured afterwards says that nothing is there.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio
import pytest

from suite.client import Client
from suite.errors import NotEnoughMemory
from suite.messages.actions.status import MemoryInfo, ModelInfo
from suite.messages.events import InstanceLoaded, InstanceLoadStarted
from support.gpus import GpuTable
from support.models import tiny_model
from support.service import history, service_and_client

GIB, MIB = 1 << 30, 1 << 20
SECONDS = 30.0
CONFIG = """
vram_limit_gb = 0.75
[models.cpu]
n_gpu_layers = 0
"""


async def model(client: Client, model_id: str) -> ModelInfo:
    found = (await client.get_model_status(model_id)).model
    assert found is not None
    return found


async def memories(client: Client) -> dict[str, MemoryInfo]:
    return {each.name: each for each in (await client.get_model_status()).memories}


async def test_models_leave_only_for_the_memory_that_is_short(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for seed, name in enumerate(("one", "two", "three", "cpu")):
        tiny_model(models / f"{name}.gguf", seed=seed)
    config = tmp_path / "suite.toml"
    config.write_text(CONFIG)
    gpus = GpuTable(tmp_path / "gpus", 4 * GIB)
    async with service_and_client(
        models, tmp_path / "data", "--config", str(config), environ=gpus.environ
    ) as (_, client):
        found = await memories(client)
        assert list(found) == ["ram", "gpu0"]
        assert (found["gpu0"].limit_bytes, found["gpu0"].reserved_bytes) == (768 * MIB, 0)
        assert (await model(client, "cpu")).need_gpus == {}
        need = (await model(client, "one")).need_gpus["gpu0"]
        assert 0 < need <= 768 * MIB < 2 * need, "one of them fits"

        async with anyio.create_task_group() as loads:
            loads.start_soon(client.load_model, "one")
            loads.start_soon(client.load_model, "cpu")
        assert (await memories(client))["gpu0"].reserved_bytes == need
        on_gpu = (await model(client, "one")).instance
        assert on_gpu is not None and on_gpu.gpus == {"gpu0": need}

        await client.load_model("two")
        assert not (await model(client, "one")).loaded, "it had what was short"
        assert (await model(client, "cpu")).loaded, "it had not"
        (started,) = [
            each.data
            for each in await history(client, "instance.*.two.>")
            if isinstance(each.data, InstanceLoadStarted)
        ]
        assert (started.evicting, started.gpus) == (("one",), {"gpu0": need})
        assert started.decision is not None and started.decision.scarcest == "gpu0"
        told = " ".join(" ".join(each.sentences) for each in (await client.explain("two")).events)
        assert "on gpu0" in told and "one (" in told

        (loaded,) = [
            each.data
            for each in await history(client, "instance.*.one.>")
            if isinstance(each.data, InstanceLoaded)
        ]
        assert (loaded.gpu_bytes, loaded.gpus) == (0, {}), "this llama.cpp has no GPU"
        assert (await model(client, "one")).need_gpus == {}, "what was measured counts"

        gpus.used_by_others(4 * GIB - 16 * MIB)
        await client.unload_model("two")
        with anyio.fail_after(SECONDS):
            while (await memories(client))["gpu0"].admissible_bytes > 16 * MIB:
                await anyio.sleep(0.05)
        with pytest.raises(NotEnoughMemory, match="on gpu0, of which other programs leave"):
            await client.load_model("three", load_wait_ms=100)
        gpus.used_by_others(0)
        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(partial(client.load_model, "three", load_wait_ms=20_000))
                while (await model(client, "three")).instance is None:
                    await anyio.sleep(0.05)
                waiting.cancel_scope.cancel()
