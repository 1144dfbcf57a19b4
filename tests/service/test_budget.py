"""The memory budget: what models were measured to need, and what other programs use; the real service."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from subprocess import PIPE

import anyio
import pytest

import suite
from suite.client import Client
from suite.errors import NotEnoughMemory
from suite.messages.actions.status import InstanceInfo, MemoryInfo, ModelInfo
from suite.messages.events import InstanceLoaded, InstanceLoadStarted, InstanceUnloaded
from support.cgroups import joining, real_cgroup
from support.models import smollm2, tiny_model
from support.service import history, service_and_client, serving

SECONDS = 30.0
MIB = 1 << 20


async def info(client: Client) -> ModelInfo:
    model = (await client.get_model_status("a")).model
    assert model is not None
    return model


async def instance(client: Client) -> InstanceInfo:
    found = (await info(client)).instance
    assert found is not None
    return found


async def memory(client: Client) -> MemoryInfo:
    (ram,) = (await client.get_model_status()).memories
    return ram


async def test_a_load_reserves_what_the_last_ones_needed_also_after_a_restart(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    tiny_model(models / "a.gguf")
    async with service_and_client(models, tmp_path / "data") as (service, client):
        estimated = (await info(client)).need_bytes
        assert not (await info(client)).is_measured
        loaded = await client.load_model("a")
        await client.generate_text("a", "Once", max_tokens=4, grammar="root ::= [a-z]+")
        with anyio.fail_after(SECONDS):  # the process of grammars counts too, once it was measured
            while (await instance(client)).reserved_bytes < loaded.resident_bytes + 10 * MIB:
                await anyio.sleep(0.05)
        now, ram = await instance(client), await memory(client)
        assert now.reserved_bytes >= now.measured_bytes > now.file_bytes > 0
        assert ram.reserved_bytes == now.reserved_bytes
        assert ram.measured_bytes >= now.measured_bytes
        assert ram.others_bytes and ram.admissible_bytes <= ram.limit_bytes
        needed = (await info(client)).need_bytes
        assert needed >= now.reserved_bytes > estimated
        await service.kill()

    async with service_and_client(models, tmp_path / "data") as (_, client):
        assert ((await info(client)).need_bytes, (await info(client)).is_measured) == (needed, True)
        await client.load_model("a")
        *_, ended, started, fact = [each.data for each in await history(client, "instance.*.a.>")]
        assert isinstance(ended, InstanceUnloaded) and ended.reason == "node_lost"
        assert isinstance(started, InstanceLoadStarted) and isinstance(fact, InstanceLoaded)
        assert started.reserved_bytes == needed
        assert (await info(client)).need_bytes == needed
        assert started.content == fact.content == (await info(client)).sha256
        assert fact.estimated_bytes == estimated
        assert fact.resident_bytes == fact.anonymous_bytes + fact.file_bytes
        expected = (await info(client)).estimate
        assert expected is not None
        assert fact.kv_bytes == pytest.approx(expected.kv_bytes, rel=0.01)
        assert 0 < fact.weights_bytes < fact.file_bytes and fact.compute_bytes > 0


HOLD = "held = b'x' * (300 << 20); print('held', flush=True); input()"


async def test_a_load_waits_for_memory_that_another_program_uses_but_not_for_page_cache(
    tmp_path: Path,
) -> None:
    """Skipped where no cgroup of version 1 can be made."""
    models = tmp_path / "models"
    models.mkdir()
    shutil.copyfile(smollm2(), models / "a.gguf")
    config = tmp_path / "suite.toml"
    config.write_text('[models.a]\ncontext_length = 2048\nslots = 1\nkv_cache = "unified"\n')
    with real_cgroup("memory", {"memory.limit_in_bytes": str(500 * MIB)}) as group:
        async with (
            serving(models, tmp_path / "data", "--config", str(config), within=joining(group)),
            suite.connect(data_dir=tmp_path / "data") as client,
        ):
            cache = ["head", "-c", str(300 * MIB), "/dev/zero"]
            with (tmp_path / "cache").open("wb") as file:
                await anyio.run_process([*joining(group), *cache], stdout=file)
            assert (await client.load_model("a", load_wait_ms=2000)).loaded
            await client.unload_model("a")

            command = [*joining(group), sys.executable, "-c", HOLD]
            async with await anyio.open_process(command, stdin=PIPE, stdout=PIPE) as other:
                assert other.stdout is not None
                await other.stdout.receive()
                with anyio.fail_after(SECONDS):
                    while (await memory(client)).admissible_bytes >= (await info(client)).need_bytes:
                        await anyio.sleep(0.05)
                with pytest.raises(NotEnoughMemory, match="of which other programs leave"):
                    await client.load_model("a", load_wait_ms=100)
                other.kill()
                await other.wait()
            assert (await client.load_model("a")).loaded
