"""Model files that come, go and change under a service that runs."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from suite.bus.connection import Connection
from suite.client import Client
from suite.errors import ModelFileGone, ModelFileIncomplete, ModelNotFound
from suite.messages.actions.status import GetModelStatusReply, ListModelsReply, ModelInfo
from support.models import slow_model, tiny_model
from support.nodes import client_of_node
from support.raw_gguf import gguf_bytes
from support.service import facts, history, service_and_client

LIMIT_SECONDS = 30
MANY = 1600


@asynccontextmanager
async def generating(client: Client, model_id: str) -> AsyncIterator[Callable[[], int]]:
    """A generation that goes on until the block ends. Yields how to ask how many pieces it has by now."""
    generation = client.generate(model_id, "Once", max_tokens=4000, temperature=0)
    pieces = 0

    async def follow() -> None:
        nonlocal pieces
        async for _ in generation:
            pieces += 1

    async def has_begun() -> bool:
        return pieces > 0

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        await until(has_begun)
        yield lambda: pieces
        await client.cancel_generation(generation.generation_id)
    assert generation.reply.finish_reason == "cancelled"


async def until(fulfilled: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(LIMIT_SECONDS):
        while not await fulfilled():
            await anyio.sleep(0.02)


async def listed(client: Client) -> dict[str, ModelInfo]:
    return {model.model_id: model for model in (await client.list_models()).models}


async def states(client: Client) -> dict[str, str]:
    return {model_id: model.file_state for model_id, model in (await listed(client)).items()}


def move(place: Path, to: Path) -> None:
    place.rename(to)


async def test_a_directory_that_is_away_for_some_time_costs_nothing(tmp_path: Path) -> None:
    models, away = tmp_path / "models", tmp_path / "away"
    models.mkdir()
    slow_model(models / "slow.gguf")
    tiny_model(models / "tiny.gguf")
    async with service_and_client(models, tmp_path / "data") as (service, client):

        async def all_hashed() -> bool:
            return all(model.sha256 for model in (await listed(client)).values())

        async def is_away() -> bool:
            return set((await states(client)).values()) == {"unreachable"}

        async def is_back() -> bool:
            return set((await states(client)).values()) == {"present"}

        await until(all_hashed)
        before = await listed(client)
        async with generating(client, "slow") as pieces:
            move(models, away)
            await until(is_away)
            told = pieces()
            health = await client.health_check()
            assert health.status == "degraded"
            assert any(str(models) in problem for problem in health.problems)
            assert (await listed(client))["slow"].loaded
            with pytest.raises(ModelFileGone, match="bring it back"):
                await client.load_model("tiny")

            async def goes_on() -> bool:
                return pieces() > told

            await until(goes_on)
            selected = await client.select_model()
            assert (selected.model_id, selected.others) == ("slow", ())
            move(away, models)
            await until(is_back)
        assert (await client.health_check()).status == "HEALTHY"
        assert (await client.load_model("tiny")).loaded
        after = await listed(client)
        assert {id: model.sha256 for id, model in after.items()} == {
            id: model.sha256 for id, model in before.items()
        }
        seen = facts(await history(client))
        assert "model.removed" not in seen
        assert seen.count("model.registered") == 2
        assert not facts(await history(client, "instance.*.slow.unloaded"))
        move(models, away)
        await service.stop()
    async with client_of_node(models, tmp_path / "data") as client:
        assert (await client.health_check()).status == "degraded"
        with pytest.raises(ModelFileGone):
            await client.load_model("tiny")
        move(away, models)

        async def is_served() -> bool:
            return await states(client) == {"slow": "present", "tiny": "present"}

        await until(is_served)
        assert (await client.load_model("tiny")).loaded
        assert "model.removed" not in facts(await history(client))


async def test_files_that_come_go_and_have_the_same_name(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for owner, seed in (("alice", 1), ("bob", 2)):
        (models / owner).mkdir(parents=True)
        tiny_model(models / owner / "m.Q4.gguf", seed=seed)
    slow_model(models / "slow.gguf")
    whole = tiny_model(tmp_path / "whole.gguf", seed=3).read_bytes()
    async with client_of_node(models, tmp_path / "data") as client:
        assert set(await listed(client)) == {"m.Q4", "bob/m.Q4", "slow"}
        texts = {
            id: (await client.generate_text(id, "Once", max_tokens=8, temperature=0)).text
            for id in ("m.Q4", "bob/m.Q4")
        }
        assert texts["m.Q4"] != texts["bob/m.Q4"]
        (models / "alice" / "m.Q4.gguf").unlink()

        async def has_gone() -> bool:
            return "m.Q4" not in await listed(client)

        await until(has_gone)
        with pytest.raises(ModelNotFound, match=r"did you mean 'bob/m\.Q4'"):
            await client.generate_text("m.Q4", "Once")
        again = await client.generate_text("bob/m.Q4", "Once", max_tokens=8, temperature=0)
        assert again.text == texts["bob/m.Q4"]
        assert facts(await history(client, "usage.bob%2Fm%2EQ4.>")) == ["usage.generated"] * 2
        async with generating(client, "slow"):
            (models / "slow.gguf").unlink()

            async def is_gone() -> bool:
                return (await states(client)).get("slow") == "gone"

            await until(is_gone)
            status = (await client.get_model_status("slow")).model
            assert status is not None and status.instance is not None
            assert (status.status, status.instance.running) == ("unloading", 1)
            assert "was deleted" in str(status.error)
            assert (await client.clear_kv_cache(model_id="slow")).status == "success"

        async def is_forgotten() -> bool:
            return "slow" not in await listed(client)

        await until(is_forgotten)

        with (models / "new.gguf").open("wb") as file:
            for start in range(0, len(whole), len(whole) // 8):
                file.write(whole[start : start + len(whole) // 8])
                file.flush()
                if start:

                    async def is_told() -> bool:
                        return (await states(client)).get("new") == "arriving"

                    await until(is_told)
                    with pytest.raises(ModelFileIncomplete, match="still being copied"):
                        await client.load_model("new")
        (models / "later.gguf.part").write_bytes(whole[:1000])

        async def is_whole() -> bool:
            return (await states(client)) | {"new": "present"} == await states(client)

        await until(is_whole)
        assert (await client.load_model("new")).loaded
        found = (await listed(client))["later"]
        assert (found.file_state, found.status, found.file_bytes) == ("incomplete", "invalid", 1000)
        with pytest.raises(ModelFileIncomplete, match=r"later\.gguf\.part shows"):
            await client.load_model("later")


async def test_more_models_than_fit_into_a_message_come_in_pages(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for number in range(MANY):
        (models / f"{number:04}-{'n' * 60}.gguf").write_bytes(gguf_bytes())
    async with service_and_client(models, tmp_path / "data") as (service, client):
        found = await client.list_models()
        assert [model.model_id[:4] for model in found.models] == [f"{number:04}" for number in range(MANY)]
        by_id = (await client.get_model_status()).models
        assert by_id is not None and len(by_id) == MANY
        async with Connection.open(service.connection_file().access, name="raw") as connection:

            async def ask(action: str, **body: object) -> bytes:
                message = await connection.request(
                    f"suite.action.{action}", msgspec.json.encode(body), timeout=20
                )
                return message.data

            first = msgspec.json.decode(await ask("list_models"), type=ListModelsReply)
            assert 800 < len(first.models) < MANY
            assert any("next_cursor" in warning for warning in first.warnings)
            page = msgspec.json.decode(
                await ask("list_models", limit=7, cursor=first.next_cursor), type=ListModelsReply
            )
            assert page.models == found.models[len(first.models) :][:7]
            last = msgspec.json.decode(
                await ask("get_model_status", cursor=page.next_cursor), type=GetModelStatusReply
            )
            assert last.models is not None and last.next_cursor is None
            assert len(last.models) == MANY - len(first.models) - 7
            assert b"invalid_request" in await ask("list_models", cursor="Ä")
        shutil.rmtree(models)  # 1,600 paths to think about
        with anyio.fail_after(LIMIT_SECONDS):
            while "cannot be read" not in str((await client.health_check()).problems):
                await anyio.sleep(0.1)
