"""Two models and memory for one of them: each gets its turn, through the real service."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import msgspec
import pytest
from anyio.from_thread import start_blocking_portal

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
from support.service import Serving, facts, history, serving

SECONDS = 30.0


SETTINGS = """
drain_seconds = 1
turn_seconds = 0.3
models.a.n_threads = 1
models.b.n_threads = 1
"""


def room_for_one(
    directory: Path, settings: str = "", *, limit_gb: float = 0.3
) -> AbstractAsyncContextManager[Serving]:
    """A service with the models a, b and c; by default it has memory for one of them, whichever it is."""
    for name in ("a", "b", "c"):
        slow_model(directory / f"{name}.gguf")
    (directory / "suite.toml").write_text(f"memory_limit_gb = {limit_gb}\n{settings}\n{SETTINGS}")
    return serving(directory, directory / "data", "--config", str(directory / "suite.toml"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a service that goes on from test to test, since each start costs seconds."""
    directory = tmp_path_factory.mktemp("turns")
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(room_for_one(directory)):
        yield directory / "data"


async def info(client: Client, model_id: str) -> ModelInfo:
    model = (await client.get_model_status(model_id)).model
    assert model is not None
    return model


async def until(client: Client, model_id: str, **expected: object) -> None:
    """Wait until these fields of a model's status are as expected."""

    async def now() -> dict[str, object]:
        model = await info(client, model_id)
        return {name: getattr(model, name) for name in expected}

    with anyio.fail_after(SECONDS):
        while await now() != expected:
            await anyio.sleep(0.01)


@asynccontextmanager
async def using(client: Client, model_id: str) -> AsyncIterator[Generation]:
    """A generation that goes on until it is cancelled."""
    generation = client.generate(model_id, "Once", max_tokens=4000, temperature=0)
    async with generation, aclosing(generation.__aiter__()) as chunks:  # type: ignore[type-var]
        await anext(chunks)
        yield generation


async def test_short_requests_of_four_clients_are_served_in_turn_and_few_of_them_cost_a_load(
    data_dir: Path,
) -> None:
    """`benchmarks/turns.py` says for 400 requests how few, and how long they wait."""
    async with suite.connect(data_dir=data_dir) as client:
        answers: Counter[str] = Counter()

        async def ask(model_id: str) -> None:
            for _ in range(10):
                reply = await client.generate_text(model_id, "Once", max_tokens=2)
                assert reply.text
                answers[reply.model_id] += 1

        before = len(await history(client, "instance"))
        with anyio.fail_after(2 * SECONDS):
            async with anyio.create_task_group() as tasks:
                for model_id in ("a", "b", "a", "b"):
                    tasks.start_soon(ask, model_id)
        assert answers == {"a": 20, "b": 20}
        events = (await history(client, "instance"))[before:]
        assert 1 <= facts(events).count("instance.load_started") <= 20
        assert "instance.crashed" not in facts(events)
        reasons = {event.data.reason for event in events if isinstance(event.data, InstanceUnloaded)}
        assert reasons == {"evicted"}


async def test_who_waits_is_told_its_place_and_ends_by_cancel_deadline_or_with_its_client(
    data_dir: Path,
) -> None:
    async with suite.connect(data_dir=data_dir) as client, using(client, "a") as running:
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
                async with suite.connect(data_dir=data_dir) as other:
                    with anyio.CancelScope() as scope:
                        task_status.started(scope)
                        await other.load_model("c")

            gone = await tasks.start(leave)
            await until(client, "c", waiting=1, place=2)
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


async def test_a_request_says_how_long_its_model_stays(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        reply = await client.generate_text("a", "Once", max_tokens=2, keep_alive="now")
        assert reply.text
        await until(client, "a", status="unloaded")
        await client.load_model("a", keep_alive="forever")
        await until(client, "a", idle_timeout_seconds=0)
        await client.load_model("a", keep_alive=7)
        await until(client, "a", idle_timeout_seconds=7)


async def test_another_context_is_served_by_the_one_that_is_there_and_that_is_said(data_dir: Path) -> None:
    """open-webui issue 19591, ollama issue 8903: two clients must not have a model loaded anew in turns."""
    async with suite.connect(data_dir=data_dir) as client:
        await client.load_model("a")
        loads = (await client.get_stats()).loads
        asked = [None, 100, 4096, 100]
        replies = [await client.generate_text("a", "Once", max_tokens=2, context_length=n) for n in asked]
        assert [len(reply.warnings) for reply in replies] == [0, 1, 0, 1]
        assert "a context of 4096 tokens" in replies[1].warnings[0]
        with pytest.raises(InvalidRequest, match="set context_length = 5000"):
            await client.generate_text("a", "Once", max_tokens=2, context_length=5000)
        assert (await client.get_stats()).loads == loads


async def test_a_pinned_model_stays_also_after_a_restart_and_a_stop_does_not_wait_for_those_who_wait(
    tmp_path: Path,
) -> None:
    async with room_for_one(tmp_path) as service, suite.connect(data_dir=service.data_dir) as client:
        pinned = await client.pin_model("a")
        assert pinned.seq
        assert (await client.pin_model("a")).seq is None
        with pytest.raises(NotEnoughMemory, match=r"these models are pinned: a "):
            await client.load_model("b")
        with pytest.raises(NotEnoughMemory, match=r"these models are pinned: a "):
            await client.pin_model("b")
    async with room_for_one(tmp_path) as service, suite.connect(data_dir=service.data_dir) as client:
        await until(client, "a", loaded=True)
        assert (await info(client, "a")).pinned
        with pytest.raises(NotEnoughMemory, match=r"these models are pinned: a "):
            await client.load_model("b")
        assert (await client.unpin_model("a")).seq
        assert (await client.load_model("b")).loaded
        pins = [fact for fact in facts(await history(client, "model.a.>")) if "pinned" in fact]
        assert pins == ["model.pinned", "model.unpinned"]
        await _stops_although_somebody_waits(service, client)


async def _stops_although_somebody_waits(service: Serving, client: Client) -> None:
    """For the memory of b, which is in use."""
    refused: list[str] = []

    async def load() -> None:
        try:
            await client.load_model("a")
        except NodeStopping as error:
            refused.append(error.code)

    async with using(client, "b"), anyio.create_task_group() as tasks:
        tasks.start_soon(load)
        await until(client, "a", waiting=1)
        tasks.start_soon(partial(service.stop))
    assert refused == ["node_stopping"]


async def test_models_are_pinned_only_as_far_as_they_fit_together_the_first_ones_if_memory_becomes_less(
    tmp_path: Path,
) -> None:
    async with room_for_one(tmp_path) as service, suite.connect(data_dir=service.data_dir) as client:
        refused: list[str] = []

        async def pin(model_id: str) -> None:
            try:
                await client.pin_model(model_id)
            except NotEnoughMemory:
                refused.append(model_id)

        async with anyio.create_task_group() as tasks:
            for model_id in ("c", "b"):
                tasks.start_soon(pin, model_id)
        assert len(refused) == 1
        for model_id in ("c", "b"):
            await client.unpin_model(model_id)
    async with (
        room_for_one(tmp_path, limit_gb=0.9) as service,
        suite.connect(data_dir=service.data_dir) as client,
    ):
        await client.pin_model("b")
        await client.pin_model("a")
    brief = "load_wait_unstreamed_ms = 50"
    async with (
        room_for_one(tmp_path, brief) as service,
        suite.connect(data_dir=service.data_dir) as client,
    ):
        await until(client, "b", loaded=True)
        health = await client.health_check()
        assert (health.status, len(health.problems)) == ("degraded", 1)
        assert "a needs" in health.problems[0] and "are pinned: b " in health.problems[0]
        assert (await client.unpin_model("b")).seq
        await until(client, "a", loaded=True)
        assert (await client.health_check()).status == "HEALTHY"
        assert (await client.unpin_model("a")).seq
        async with using(client, "a"):
            with pytest.raises(NotEnoughMemory, match=r"a .* \(in use\)"):
                await client.embed("c", "a text")

        async with Connection.open(service.connection_file().access, name="test") as connection:
            both = PreloadModelsRequest(model_ids=("a", "b"), load_wait_ms=600_000)
            body = msgspec.json.encode(both)
            answer = await connection.request("suite.action.preload_models", body, timeout=SECONDS)
        results = msgspec.json.decode(answer.data)["results"]
        assert results["a"]["loaded"]
        assert results["b"]["code"] == "not_enough_memory"
