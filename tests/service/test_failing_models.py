"""A model that fails again and again is left alone for a while. All is real but the time of day."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

import suite
from suite.client import Client
from suite.config import Settings
from suite.errors import ActorCrashed, LoadFailed, Quarantined, SuiteError
from suite.messages.actions.status import ModelInfo
from suite.messages.events import InstanceUnloaded, ModelQuarantined
from suite.node.startup import running_node
from support.adapters import adapter
from support.models import slow_model, tiny_model
from support.service import facts, history

SECONDS = 30.0
REQUESTS = 33
PAUSE = timedelta(seconds=30)


class TimeOfDay:
    """It stands still unless a test moves it, so that no pause ends while a slow machine computes."""

    now = datetime(2026, 11, 29, 12, tzinfo=UTC)


@asynccontextmanager
async def room_for_one(directory: Path, time: TimeOfDay) -> AsyncIterator[Client]:
    """A node that has memory for one of its models."""
    settings = Settings(
        data_dir=directory / "data",
        models_directories=(directory,),
        standby=False,
        turn_seconds=0.3,
        memory_limit_gb=0.3,
    )
    async with (
        running_node(settings, now=lambda: time.now),
        suite.connect(data_dir=settings.data_dir) as client,
    ):
        yield client


async def info(client: Client, model_id: str) -> ModelInfo:
    model = (await client.get_model_status(model_id)).model
    assert model is not None
    return model


async def ask(client: Client, model_id: str) -> str:
    """The outcome of a request, by its code."""
    try:
        await client.generate_text(model_id, "Once", max_tokens=2)
    except SuiteError as error:
        return error.code
    return "answered"


async def starts(client: Client, model_id: str) -> int:
    return facts(await history(client, f"instance.*.{model_id}.>")).count("instance.load_started")


async def kill(client: Client, model_id: str) -> None:
    """Kill the process of a loaded model, and wait until it is gone."""
    model = await info(client, model_id)
    assert model.instance is not None and model.instance.pid is not None
    os.kill(model.instance.pid, signal.SIGKILL)
    with anyio.fail_after(SECONDS):
        while (await info(client, model_id)).instance is not None:
            await anyio.sleep(0.01)


async def test_a_file_that_cannot_be_loaded_is_not_tried_for_every_request(tmp_path: Path) -> None:
    good = slow_model(tmp_path / "good.gguf").read_bytes()
    odd = good.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight")
    (tmp_path / "odd.gguf").write_bytes(odd)
    time = TimeOfDay()
    async with room_for_one(tmp_path, time) as client:
        outcomes = [await ask(client, "odd") for _ in range(REQUESTS)]
        assert outcomes == ["load_failed"] * 2 + ["model_quarantined"] * (REQUESTS - 2)
        assert await starts(client, "odd") == 2
        await client.load_model("good")
        with pytest.raises(
            Quarantined, match=r"for another 30 s.* 2 times .*ffn_up.*`suite release odd`"
        ) as e:
            await client.load_model("odd")
        assert e.value.retry_after_ms == 30_000
        with pytest.raises(Quarantined):
            await client.pin_model("odd")
        assert (await info(client, "good")).loaded, "nothing left for what is refused"
        assert (await client.select_model()).others[-1] == "odd"
        (breaker,) = [each for each in (await client.health_check()).breakers if each.kind == "model"]
        assert (breaker.name, breaker.state, breaker.failures) == ("odd", "open", 2)
        assert "ffn_up" in breaker.reason
        shown = (await info(client, "odd")).quarantine
        assert shown is not None and shown.failures == 2
        (told,) = [event.data for event in await history(client, "model.odd.quarantined")]
        assert isinstance(told, ModelQuarantined)
        assert told.content == (await info(client, "odd")).sha256

    async with room_for_one(tmp_path, time) as client:
        until = (time.now + PAUSE).timestamp()
        refusals = (await client.get_request_statistics("odd", until=until)).total.refusals
        assert refusals["load_failed"] == 2
        assert refusals["model_quarantined"] >= REQUESTS - 2
        assert await ask(client, "odd") == "model_quarantined"
        assert (await info(client, "odd")).quarantine == shown
        time.now += PAUSE
        (breaker,) = [each for each in (await client.get_stats()).breakers if each.kind == "model"]
        assert (breaker.name, breaker.state) == ("odd", "half_open")
        outcomes = []

        async def attempt() -> None:
            outcomes.append(await ask(client, "odd"))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(attempt)
        assert outcomes == ["load_failed"] * 5, "all wait for the one attempt after the pause"
        assert await starts(client, "odd") == 3
        with pytest.raises(Quarantined, match=r"for another 60 s.* 3 times "):
            await client.load_model("odd")

        assert (await client.release_model("odd")).seq
        assert (await client.release_model("odd")).seq is None
        with pytest.raises(LoadFailed):
            await client.load_model("odd")
        assert await ask(client, "odd") == "load_failed"
        assert await ask(client, "odd") == "model_quarantined"

        (tmp_path / "mended.part").write_bytes(good)
        (tmp_path / "mended.part").rename(tmp_path / "odd.gguf")
        with anyio.fail_after(SECONDS):
            while (outcome := await ask(client, "odd")) != "answered":
                # Until the new file is seen, and then until it is inspected.
                assert outcome in ("model_quarantined", "model_file_invalid")
                await anyio.sleep(0.05)
        assert facts(await history(client, "model.odd.released")) == ["model.released"]


async def test_a_name_with_adapters_that_crashes_its_model_is_left_alone_and_not_the_model(
    tmp_path: Path,
) -> None:
    base = slow_model(tmp_path / "base.gguf")
    for number, name in enumerate(("pirate", "poet")):
        adapter(tmp_path / f"{name}.gguf", base, seed=number)
    time = TimeOfDay()
    async with room_for_one(tmp_path, time) as client:
        with anyio.fail_after(SECONDS):
            while (await info(client, "pirate")).version is None:  # until all files are read
                await anyio.sleep(0.01)
        for _ in range(2):
            generation = client.generate("pirate", "Once", max_tokens=4000, temperature=0)
            with pytest.raises(ActorCrashed):
                async with generation, aclosing(generation.__aiter__()) as chunks:  # type: ignore[type-var]
                    await anext(chunks)
                    await kill(client, "base")
                    async for _chunk in chunks:
                        pass
        assert [await ask(client, name) for name in ("pirate", "poet", "base")] == [
            "model_quarantined",
            "answered",
            "answered",
        ]
        with pytest.raises(Quarantined, match="the process of base crashed with nothing else to do"):
            await client.load_model("pirate")
        assert (await info(client, "base")).quarantine is None
        shown = (await info(client, "pirate")).quarantine
        assert shown is not None and shown.failures == 2
        (breaker,) = [each for each in (await client.health_check()).breakers if each.kind == "model"]
        assert (breaker.name, breaker.state) == ("pirate", "open")
        released = await client.release_model("pirate")
        assert released.seq and released.model_id == "pirate"
        assert await ask(client, "pirate") == "answered"


async def test_a_pinned_model_that_leaves_is_loaded_again_but_not_while_it_is_quarantined(
    tmp_path: Path,
) -> None:
    slow_model(tmp_path / "a.gguf")
    time = TimeOfDay()

    async def loaded_again(before: int | None) -> int:
        with anyio.fail_after(SECONDS):
            while True:
                model = await info(client, "a")
                pid = None if model.instance is None else model.instance.pid
                if model.loaded and pid is not None and pid != before:
                    return pid
                await anyio.sleep(0.01)

    async with room_for_one(tmp_path, time) as client:
        await client.pin_model("a")
        pid = await loaded_again(None)
        os.kill(pid, signal.SIGKILL)
        pid = await loaded_again(pid)
        os.kill(pid, signal.SIGKILL)
        with anyio.fail_after(SECONDS):
            while (await info(client, "a")).quarantine is None:
                await anyio.sleep(0.01)
        time.now += PAUSE
        pid = await loaded_again(pid)
        assert await starts(client, "a") == 3

        tiny_model(tmp_path / "b.part")
        (tmp_path / "b.part").rename(tmp_path / "a.gguf")
        pid = await loaded_again(pid)
        await client.unload_model("a")
        assert await starts(client, "a") == 4


async def test_a_model_that_crashes_again_and_again_is_left_alone_and_those_who_wait_are_told(
    tmp_path: Path,
) -> None:
    for name in ("a", "b"):
        slow_model(tmp_path / f"{name}.gguf")
    async with room_for_one(tmp_path, TimeOfDay()) as client:
        await client.load_model("a")
        await kill(client, "a")
        refused: list[str] = []

        async def wait() -> None:
            refused.append(await ask(client, "a"))

        async with anyio.create_task_group() as tasks:
            generation = client.generate("a", "Once", max_tokens=4000, temperature=0)
            with pytest.raises(ActorCrashed):
                async with generation, aclosing(generation.__aiter__()) as chunks:  # type: ignore[type-var]
                    await anext(chunks)
                    tasks.start_soon(client.load_model, "b")
                    with anyio.fail_after(SECONDS):
                        while (await info(client, "a")).waiting == 0:  # until its turn is over
                            tasks.start_soon(wait)
                            await anyio.sleep(0.1)
                    await kill(client, "a")
                    async for _chunk in chunks:
                        pass
        assert "model_quarantined" in refused
        # Some may have been served before the turn of a was over.
        assert set(refused) <= {"answered", "model_quarantined", "actor_crashed"}
        assert (await info(client, "b")).loaded, "its turn came at once"
        assert await starts(client, "a") == 2
        assert await ask(client, "a") == "model_quarantined"
        ends = [event.data for event in await history(client, "instance.*.b.unloaded")]
        assert not [end for end in ends if isinstance(end, InstanceUnloaded)]
