"""Two models and memory for one of them: each gets its turn, through the real service."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import msgspec
import pytest

import suite
from suite.bus.connection import Connection
from suite.client import Client
from suite.client.generation import Generation
from suite.errors import Cancelled, InvalidRequest, NodeStopping, NotEnoughMemory
from suite.messages.actions.prediction import PreloadModelsRequest
from suite.messages.actions.status import ModelInfo
from suite.messages.events import InstanceUnloaded
from suite.messages.signals import Waiting
from support.models import slow_model
from support.service import Serving, facts, history, service_and_client

SECONDS = 30.0


SHORT_TURNS = "turn_seconds = 0.3\nstandby = false"


@asynccontextmanager
async def room_for_one(directory: Path, settings: str = SHORT_TURNS) -> AsyncIterator[tuple[Serving, Client]]:
    """A service with the models a, b and c; it has memory for one of them, whichever it is."""
    for name in ("a", "b", "c"):
        slow_model(directory / f"{name}.gguf")
    (directory / "suite.toml").write_text(f"memory_limit_gb = 0.3\ndrain_seconds = 1\n{settings}\n")
    config = ("--config", str(directory / "suite.toml"))
    async with service_and_client(directory, directory / "data", *config) as (service, client):
        yield service, client


async def info(client: Client, model_id: str) -> ModelInfo:
    model = (await client.get_model_status(model_id)).model
    assert model is not None
    return model


async def until(client: Client, model_id: str, *, waiting: int) -> None:
    with anyio.fail_after(SECONDS):
        while (await info(client, model_id)).waiting != waiting:
            await anyio.sleep(0.01)


@asynccontextmanager
async def using(client: Client, model_id: str) -> AsyncIterator[Generation]:
    """A generation that goes on until it is cancelled."""
    generation = client.generate(model_id, "Once", max_tokens=4000, temperature=0)
    async with generation, aclosing(generation.__aiter__()) as chunks:  # type: ignore[type-var]
        await anext(chunks)
        yield generation


async def test_both_models_are_served_in_turn_and_nobody_is_refused(tmp_path: Path) -> None:
    async with room_for_one(tmp_path) as (_, client):
        answers: list[str] = []

        async def ask(model_id: str) -> None:
            for _ in range(2):
                reply = await client.generate_text(model_id, "Once", max_tokens=4)
                answers.append(reply.model_id)

        async with anyio.create_task_group() as tasks:
            for model_id in ("a", "b", "a", "b"):
                tasks.start_soon(ask, model_id)
        assert sorted(answers) == ["a"] * 4 + ["b"] * 4
        events = await history(client, "instance")
        loads = facts(events).count("instance.load_started")
        assert 2 <= loads <= 4
        reasons = {event.data.reason for event in events if isinstance(event.data, InstanceUnloaded)}
        assert reasons == {"evicted"}


async def test_400_short_requests_of_four_clients_are_all_answered_and_few_of_them_cost_a_load(
    tmp_path: Path,
) -> None:
    one_thread = "\n".join(f"[models.{name}]\nn_threads = 1" for name in "ab")
    async with room_for_one(tmp_path, one_thread) as (_, client):
        answers: Counter[str] = Counter()

        async def ask(model_id: str) -> None:
            for _ in range(100):
                reply = await client.generate_text(model_id, "Once", max_tokens=2)
                assert reply.text
                answers[reply.model_id] += 1

        with anyio.fail_after(2 * SECONDS):
            async with anyio.create_task_group() as tasks:
                for model_id in ("a", "b", "a", "b"):
                    tasks.start_soon(ask, model_id)
        assert answers == {"a": 200, "b": 200}
        stats = await client.get_stats()
        assert stats.loads <= 200
        assert stats.crashes == 0


async def test_who_waits_is_told_its_place_and_ends_by_cancel_deadline_or_with_its_client(
    tmp_path: Path,
) -> None:
    async with room_for_one(tmp_path) as (service, client), using(client, "a") as running:
        places: list[Waiting] = []
        outcome: list[object] = []

        async def wait(generation: Generation) -> None:
            try:
                outcome.append(await generation.finish())
            except Cancelled as error:
                outcome.append(error)

        async with anyio.create_task_group() as tasks:
            waiting = client.generate("b", "Once", max_tokens=2, on_waiting=places.append)
            tasks.start_soon(wait, waiting)
            await until(client, "b", waiting=1)

            async def leave(task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
                async with suite.connect(data_dir=service.data_dir) as other:
                    with anyio.CancelScope() as scope:
                        task_status.started(scope)
                        await other.load_model("c")

            gone = await tasks.start(leave)
            await until(client, "c", waiting=1)
            assert (await info(client, "c")).place == 2
            gone.cancel()
            await until(client, "c", waiting=0)

            with pytest.raises(NotEnoughMemory, match=r"a .* \(in use\)"):
                await client.embed("c", "a text", load_wait_ms=50)
            with pytest.raises(NotEnoughMemory):
                await client.load_model("c", load_wait_ms=0)

            await client.cancel_generation(waiting.generation_id)
        assert isinstance(outcome[0], Cancelled)
        assert places == [Waiting(model_id="b", place=1, waits_for=("a",))]
        assert (await info(client, "b")).waiting == 0
        assert (await info(client, "a")).status == "loaded"

        told: list[Waiting | float] = []
        async with anyio.create_task_group() as tasks:
            load = partial(client.load_model, "b", on_waiting=told.append, on_progress=told.append)
            tasks.start_soon(load)
            await until(client, "b", waiting=1)
            await client.cancel_generation(running.generation_id)
        assert told[0] == Waiting(model_id="b", place=1, waits_for=("a",))
        fractions = [each for each in told if isinstance(each, float)]
        assert fractions and fractions == sorted(fractions)


async def test_a_pinned_model_stays_also_after_a_restart_until_it_is_unpinned(tmp_path: Path) -> None:
    async with room_for_one(tmp_path) as (_, client):
        pinned = await client.pin_model("a")
        assert pinned.seq
        assert (await client.pin_model("a")).seq is None
        with pytest.raises(NotEnoughMemory, match=r"these models are pinned: a "):
            await client.load_model("b")
        with pytest.raises(NotEnoughMemory, match=r"these models are pinned: a "):
            await client.pin_model("b")
    async with room_for_one(tmp_path) as (_, client):
        with anyio.fail_after(SECONDS):
            while not (await info(client, "a")).loaded:
                await anyio.sleep(0.01)
        assert (await info(client, "a")).pinned
        with pytest.raises(NotEnoughMemory, match=r"these models are pinned: a "):
            await client.load_model("b")
        assert (await client.unpin_model("a")).seq
        assert (await client.load_model("b")).loaded
        pins = [fact for fact in facts(await history(client, "model.a.>")) if "pinned" in fact]
        assert pins == ["model.pinned", "model.unpinned"]


async def test_a_request_says_how_long_its_model_stays_and_preloaded_models_wait_not_for_each_other(
    tmp_path: Path,
) -> None:
    async with room_for_one(tmp_path) as (service, client):
        reply = await client.generate_text("a", "Once", max_tokens=2, keep_alive="now")
        assert reply.text
        with anyio.fail_after(SECONDS):
            while (await info(client, "a")).status != "unloaded":
                await anyio.sleep(0.01)
        await client.load_model("a", keep_alive="forever")
        assert (await info(client, "a")).idle_timeout_seconds == 0
        await client.load_model("a", keep_alive=7)
        assert (await info(client, "a")).idle_timeout_seconds == 7

        async with Connection.open(service.connection_file().access, name="test") as connection:
            both = PreloadModelsRequest(model_ids=("a", "b"), load_wait_ms=600_000)
            body = msgspec.json.encode(both)
            answer = await connection.request("suite.action.preload_models", body, timeout=SECONDS)
        results = msgspec.json.decode(answer.data)["results"]
        assert results["a"]["loaded"]
        assert results["b"]["code"] == "not_enough_memory"


async def test_another_context_is_served_by_the_one_that_is_there_and_that_is_said(tmp_path: Path) -> None:
    """open-webui issue 19591, ollama issue 8903: two clients must not have a model loaded anew in turns."""
    async with room_for_one(tmp_path) as (_, client):
        asked = [None, 100, 4096, 100]
        replies = [await client.generate_text("a", "Once", max_tokens=2, context_length=n) for n in asked]
        assert [len(reply.warnings) for reply in replies] == [0, 1, 0, 1]
        assert "a context of 4096 tokens" in replies[1].warnings[0]
        with pytest.raises(InvalidRequest, match="set context_length = 5000"):
            await client.generate_text("a", "Once", max_tokens=2, context_length=5000)
        assert (await client.get_stats()).loads == 1


async def test_a_stop_does_not_wait_for_those_who_wait_for_memory(tmp_path: Path) -> None:
    async with room_for_one(tmp_path) as (service, client), using(client, "a"):
        refused: list[str] = []

        async def load() -> None:
            try:
                await client.load_model("b")
            except NodeStopping as error:
                refused.append(error.code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load)
            await until(client, "b", waiting=1)
            tasks.start_soon(partial(service.stop))
    assert refused == ["node_stopping"]
