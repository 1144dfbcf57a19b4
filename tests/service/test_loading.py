"""Loading, unloading, eviction, idleness: through the real service on small real models."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio
import psutil
import pytest

from suite.client import Client
from suite.errors import (
    LoadCancelled,
    LoadFailed,
    ModelFileGone,
    ModelFileInvalid,
    ModelNotFound,
    ModelUnloading,
    NotEnoughMemory,
    SuiteError,
)
from suite.messages.actions.status import InstanceInfo, ModelInfo
from suite.messages.events import InstanceUnloaded
from support.models import slow_model, tiny_model
from support.nodes import client_of_node
from support.service import facts, history, service_and_client


async def model_info(client: Client, model_id: str) -> ModelInfo:
    model = (await client.get_model_status(model_id)).model
    assert model is not None
    return model


async def instance_info(client: Client, model_id: str) -> InstanceInfo:
    instance = (await model_info(client, model_id)).instance
    assert instance is not None
    return instance


async def sizes_gb(tmp_path: Path) -> tuple[float, float]:
    """What one of these models was estimated to need, and what it needs, as the service itself says."""
    async with client_of_node(tmp_path, tmp_path / "measure") as client:
        model = next(iter((await client.list_models()).models))
        assert model.estimate is not None
        await client.load_model(model.model_id)
        measured = (await instance_info(client, model.model_id)).reserved_bytes
        return model.estimate.total_bytes / 2**30, measured / 2**30


async def measured_gb(tmp_path: Path) -> float:
    return (await sizes_gb(tmp_path))[1]


async def test_a_model_is_loaded_reported_and_unloaded(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.v1.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        progress: list[float] = []
        loaded = await client.load_model("tiny.v1", on_progress=progress.append)
        assert loaded.loaded
        assert progress == sorted(progress)
        assert (await client.load_model("tiny.v1")).seq == loaded.seq
        model = await model_info(client, "tiny.v1")
        assert model.status == "loaded"
        assert model.instance is not None
        assert model.instance.resident_bytes == loaded.resident_bytes > 0
        unloaded = await client.unload_model("tiny.v1")
        assert unloaded.unloaded
        assert unloaded.freed_bytes > 0
        assert not psutil.pid_exists(model.instance.pid or 0)
        again = await client.unload_model("tiny.v1")
        assert again.unloaded
        assert again.seq is None
        events = await history(client, "instance")
        assert facts(events) == ["instance.load_started", "instance.loaded", "instance.unloaded"]
        assert events[1].seq == loaded.seq
        assert events[2].seq == unloaded.seq


async def test_one_load_serves_everyone_who_asks_for_it(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        seqs: list[int] = []

        async def load() -> None:
            seqs.append((await client.load_model("tiny")).seq)

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(load)
        assert len(set(seqs)) == 1
        assert facts(await history(client, "instance")).count("instance.load_started") == 1


async def test_a_load_need_not_be_waited_for(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        begun = await client.load_model("tiny", wait=False)
        assert not begun.loaded
        assert (await client.load_model("tiny")).seq > begun.seq


async def test_the_least_recently_used_idle_model_makes_room(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        tiny_model(tmp_path / f"{name}.gguf")
    # What is measured may be more than the estimate, so the limit is in what two of them really hold,
    # each with a step of growth.
    limit = 2.65 * max(await sizes_gb(tmp_path))
    async with client_of_node(tmp_path, tmp_path / "data", memory_limit_gb=limit, turn_seconds=0) as client:
        for name in ("a", "b"):
            await client.load_model(name)
        await client.generate_text("a", "Once", max_tokens=2)
        await client.load_model("c")
        models = (await client.get_model_status()).models
        assert models is not None
        assert {name for name, model in models.items() if model.loaded} == {"a", "c"}
        (gone,) = [event.data for event in await history(client, "instance.*.b.unloaded")]
        assert isinstance(gone, InstanceUnloaded)
        assert gone.reason == "evicted"


async def test_what_is_in_use_is_not_evicted_but_the_load_refused_in_the_end(tmp_path: Path) -> None:
    slow_model(tmp_path / "a.gguf")
    slow_model(tmp_path / "b.gguf")
    limit = 1.5 * await measured_gb(tmp_path)
    async with client_of_node(tmp_path, tmp_path / "data", memory_limit_gb=limit) as client:
        generation = client.generate("a", "Once", max_tokens=4000, temperature=0)
        async for _ in generation:
            with pytest.raises(NotEnoughMemory, match=r"a .* \(in use\)"):
                await client.load_model("b", load_wait_ms=100)
            break
        await generation.aclose()
        with anyio.fail_after(20):
            while (await instance_info(client, "a")).running:
                await anyio.sleep(0.02)
        assert (await client.load_model("b")).loaded


async def test_a_load_waits_for_a_drain_and_cancels_nobody(tmp_path: Path) -> None:
    slow_model(tmp_path / "a.gguf")
    slow_model(tmp_path / "b.gguf")
    limit = 1.5 * await measured_gb(tmp_path)
    async with client_of_node(tmp_path, tmp_path / "data", memory_limit_gb=limit) as client:
        generation = client.generate("a", "Once", max_tokens=4000, temperature=0)
        async with anyio.create_task_group() as tasks:
            async for chunk in generation:
                if chunk.index == 0:
                    tasks.start_soon(partial(client.unload_model, "a", drain_ms=60_000))
                    while (await model_info(client, "a")).status != "unloading":
                        await anyio.sleep(0.01)
                    tasks.start_soon(client.load_model, "b")
                    while not (await model_info(client, "b")).waiting:
                        await anyio.sleep(0.01)
                if chunk.index == 5:
                    await client.cancel_generation(generation.generation_id)
        assert generation.reply.finish_reason == "cancelled"
        assert (await model_info(client, "b")).loaded
        (gone,) = [event.data for event in await history(client, "instance.*.a.unloaded")]
        assert isinstance(gone, InstanceUnloaded)
        assert gone.reason == "requested"


async def test_a_drain_can_be_cut_short(tmp_path: Path) -> None:
    slow_model(tmp_path / "a.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        async with anyio.create_task_group() as tasks:
            with pytest.raises(ModelUnloading):
                async for chunk in client.generate("a", "Once", max_tokens=4000, temperature=0):
                    if chunk.index == 0:
                        tasks.start_soon(partial(client.unload_model, "a", drain_ms=600_000))
                        while (await model_info(client, "a")).status != "unloading":
                            await anyio.sleep(0.01)
                        tasks.start_soon(partial(client.unload_model, "a", drain_ms=0))
        assert (await model_info(client, "a")).status == "unloaded"


async def test_a_model_that_can_never_fit_is_refused(tmp_path: Path) -> None:
    tiny_model(tmp_path / "a.gguf")
    options = ("--memory-limit-gb", "0.0001")
    async with service_and_client(tmp_path, tmp_path / "data", *options) as (service, client):
        with pytest.raises(NotEnoughMemory, match="memory_limit_gb"):
            await client.load_model("a")
        assert "no model fits into the memory limit of 104.9 KiB" in service.errors.read_text()


async def test_a_model_that_turns_out_larger_than_the_limit_is_refused_and_not_tried_again(
    tmp_path: Path,
) -> None:
    tiny_model(tmp_path / "a.gguf")
    estimated, measured = await sizes_gb(tmp_path)
    assert estimated < measured, "the estimate of so small a model has too little for its process"
    limit = (estimated + measured) / 2
    for _ in range(2):  # a restart does not forget it
        async with client_of_node(tmp_path, tmp_path / "data", memory_limit_gb=limit) as client:
            for _ in range(2):
                with pytest.raises(NotEnoughMemory, match="memory_limit_gb"):
                    await client.load_model("a")
            assert facts(await history(client, "instance")) == [
                "instance.load_started",
                "instance.load_failed",
            ]


async def test_an_idle_model_unloads_after_its_timeout(tmp_path: Path) -> None:
    tiny_model(tmp_path / "brief.gguf")
    tiny_model(tmp_path / "stays.gguf")
    config = tmp_path / "suite.toml"
    config.write_text(
        "[models.brief]\nidle_timeout_seconds = 0.5\n[models.stays]\nidle_timeout_seconds = 0\n"
    )
    async with client_of_node(tmp_path, tmp_path / "data", config=config) as client:
        await client.load_model("stays")
        await client.load_model("brief")
        with anyio.fail_after(20):
            while (await model_info(client, "brief")).status != "unloaded":
                await anyio.sleep(0.05)
        (gone,) = [event.data for event in await history(client, "instance.*.brief.unloaded")]
        assert isinstance(gone, InstanceUnloaded)
        assert gone.reason == "idle"
        assert (await model_info(client, "stays")).loaded


async def test_an_unload_ends_a_load_that_is_under_way(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        outcomes: list[str] = []

        async def load() -> None:
            try:
                await client.load_model("tiny")
                outcomes.append("loaded")
            except LoadCancelled:
                outcomes.append("cancelled")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load)
            while (await model_info(client, "tiny")).status == "unloaded":
                await anyio.sleep(0.005)
            await client.unload_model("tiny")
        assert outcomes in (["cancelled"], ["loaded"])
        assert (await model_info(client, "tiny")).status == "unloaded"
        assert (await client.load_model("tiny")).loaded


async def test_files_come_and_go_while_it_serves(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    async with client_of_node(models, tmp_path / "data") as client:
        assert (await client.list_models()).models == ()
        tiny_model(tmp_path / "new.gguf").rename(models / "new.gguf")
        with anyio.fail_after(20):
            while not any(model.file_state == "present" for model in (await client.list_models()).models):
                await anyio.sleep(0.05)
        await client.load_model("new")
        (models / "new.gguf").unlink()
        with anyio.fail_after(20):
            while "model.removed" not in facts(await history(client, "model")):
                await anyio.sleep(0.05)
        assert facts(await history(client, "model.new.>")) == ["model.registered", "model.removed"]
        with pytest.raises(ModelNotFound):
            await client.load_model("new")
        with anyio.fail_after(20):
            while not (ends := await history(client, "instance.*.new.unloaded")):
                await anyio.sleep(0.05)
        (gone,) = [event.data for event in ends]
        assert isinstance(gone, InstanceUnloaded)
        assert gone.reason == "file_removed"


async def test_a_model_is_registered_once_over_restarts(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    for _ in range(2):
        async with client_of_node(tmp_path, tmp_path / "data") as client:
            with anyio.fail_after(20):
                while (await model_info(client, "tiny")).sha256 is None:
                    await anyio.sleep(0.02)
                while "model.registered" not in (seen := facts(await history(client, "model"))):
                    await anyio.sleep(0.02)
            assert seen == ["model.registered"]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all\n" * 100])
async def test_a_file_that_is_no_model_is_listed_with_what_is_wrong(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.gguf").write_bytes(content)
    (tmp_path / "folder.gguf").mkdir()
    tiny_model(tmp_path / "good.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        model = await model_info(client, "broken")
        assert model.status == "invalid"
        assert model.error
        with pytest.raises(ModelFileInvalid):
            await client.load_model("broken")
        with pytest.raises(SuiteError) as refused:
            await client.load_model("folder")
        assert refused.value.code in ("model_file_invalid", "model_not_found")
        assert (await client.load_model("good")).loaded


async def test_a_file_deleted_between_listing_and_loading_is_said_to_be_gone(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf")
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        await client.list_models()
        path.unlink()
        with pytest.raises((ModelFileGone, ModelNotFound)):
            await client.load_model("tiny")


async def test_a_file_that_llama_cpp_cannot_load_fails_its_load_alone(tmp_path: Path) -> None:
    good = tiny_model(tmp_path / "good.gguf").read_bytes()
    (tmp_path / "odd.gguf").write_bytes(good.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    async with client_of_node(tmp_path, tmp_path / "data") as client:
        with pytest.raises((LoadFailed, ModelFileInvalid)) as refused:
            await client.load_model("odd")
        assert refused.value.message
        assert "instance.load_failed" in facts(await history(client, "instance.*.odd.>"))
        assert (await client.load_model("good")).loaded
