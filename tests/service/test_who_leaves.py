"""Who leaves memory for others, through the real service; its log alone gives the same decisions again."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from suite.client import Client
from suite.errors import ActorCrashed, NotEnoughMemory
from suite.messages.envelope import Recorded
from suite.messages.events import (
    Event,
    Generated,
    InstanceCrashed,
    InstanceLoadStarted,
    InstanceUnloaded,
    PromotionStopped,
)
from suite.messages.promotion import Gates, ScoreGate
from suite.prediction.replay.decisions import DecidedAgain, decide_again
from support.command import Command
from support.models import tiny_model
from support.service import WITH_STANDBY, history, service_and_client

MODELS = ("a", "b", "c", "d")
SHARES = (8, 4, 2, 1)
CLIENTS, REQUESTS = 3, 12
PATIENCE_SECONDS = 30.0

CONFIG = """
node = "box"
memory_limit_gb = 0.165
turn_seconds = 0.1
"""
"""Room for two of the models, and for a process that stands by."""


@asynccontextmanager
async def room_for_two(directory: Path) -> AsyncIterator[Client]:
    for seed, name in enumerate(MODELS):
        tiny_model(directory / f"{name}.gguf", seed=seed)
    config = directory / "suite.toml"
    config.write_text(CONFIG)
    options = (directory, directory / "data", "--config", str(config))
    async with service_and_client(*options, environ=WITH_STANDBY) as (_, client):
        yield client


async def requests(client: Client, seed: int) -> None:
    """What one client asks for, one request after the other: a few of one model, some in conversations."""
    choose = random.Random(seed)
    model_ids = [id for id in choose.choices(MODELS, SHARES, k=REQUESTS // 4) for _ in range(4)]
    for number, model_id in enumerate(model_ids):
        conversation_id = f"{seed}{model_id}" if number % 2 else None
        with suppress(ActorCrashed):
            await client.generate_text(
                model_id, f"Once {number}", max_tokens=2, conversation_id=conversation_id
            )


async def pin_for_a_while(client: Client) -> None:
    await anyio.sleep(0.3)
    await client.pin_model("c")
    await anyio.sleep(1.0)
    await client.unpin_model("c")


async def kill_one(client: Client) -> None:
    """Kill the process of a model that is loaded; of the next one if it was leaving already."""
    await anyio.sleep(0.5)
    while not isinstance(await killed(client), InstanceCrashed):
        await anyio.sleep(0.01)


async def killed(client: Client) -> Event | None:
    """What became of a loaded model whose process was killed; None: none is loaded."""
    for model_id, model in ((await client.get_model_status()).models or {}).items():
        if model.status == "loaded" and model.instance is not None and model.instance.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(model.instance.pid, signal.SIGKILL)
            return await end_of(client, model_id, model.instance.instance_id)
    return None


async def end_of(client: Client, model_id: str, instance_id: str) -> Event:
    """The event that ends an instance, once it is there."""
    async with aclosing(client.events(f"instance.*.{model_id}.>", follow=True)) as events:
        async for event in events:
            fact = event.data
            if isinstance(fact, InstanceCrashed | InstanceUnloaded) and fact.instance_id == instance_id:
                return fact
    raise AssertionError("a log that is followed has no end")


def again(events: Sequence[Recorded]) -> list[DecidedAgain]:
    return list(decide_again(events, "box"))


async def test_its_log_alone_gives_the_same_evictions_again_event_for_event(tmp_path: Path) -> None:
    async with room_for_two(tmp_path) as client:
        async with anyio.create_task_group() as tasks:
            for seed in range(CLIENTS):
                tasks.start_soon(requests, client, seed)
            tasks.start_soon(pin_for_a_while, client)
            tasks.start_soon(kill_one, client)
        eviction = (await client.get_model_status()).eviction
        events = await history(client)
        checked = await Command(tmp_path / "data").output("replay", "--check", "--node", "box")
    assert eviction is not None
    assert eviction.policy == "best_lately"
    assert eviction.follows

    decisions = again(events)
    loads = {event.seq: event.data for event in events if isinstance(event.data, InstanceLoadStarted)}
    # Left out are only decisions after a model had grown, so that all together were over the limit.
    assert {each.seq for each in decisions} <= loads.keys()
    assert len(decisions) > len(loads) / 2
    assert [each for each in decisions if not each.agrees] == []
    assert checked.startswith(f"box: made {len(decisions)} decisions again, and each came out as it stands")
    assert any(isinstance(event.data, InstanceCrashed) for event in events)

    left = Counter(id for load in loads.values() for id in load.evicting)
    evicted = Counter(
        event.data.model_id
        for event in events
        if isinstance(event.data, InstanceUnloaded) and event.data.evicted_for
    )
    assert evicted
    assert evicted <= left

    # It does depend on what was learned: without the uses, the worths are others.
    unused = [event for event in events if not isinstance(event.data, Generated)]
    assert not all(each.agrees for each in again(unused))


async def promotion(client: Client, *states: str | None) -> None:
    """Wait until the promotion to the alias is in one of these states; None: there is none."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            (found,) = (await client.list_aliases("chat")).aliases
            if (found.promotion and found.promotion.state) in states:
                return
            await anyio.sleep(0.05)


async def are_registered(client: Client) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        while len((await client.list_versions()).versions) < len(MODELS):
            await anyio.sleep(0.05)


async def test_what_serves_stays_until_another_version_is_promoted(tmp_path: Path) -> None:
    async with room_for_two(tmp_path) as client:
        await are_registered(client)
        await client.set_alias("chat", "a")
        await client.load_model("a")
        await client.promote_alias("chat", "b", canary_share=0.5)
        await promotion(client, "canary")
        for other in ("c", "d", "b", "c"):
            await client.load_model(other)
        events = [event.data for event in await history(client, "instance")]
        left = [event.model_id for event in events if isinstance(event, InstanceUnloaded)]
        assert left == ["b", "c", "d", "b"], "and never the one that serves"
        decision = [event for event in events if isinstance(event, InstanceLoadStarted)][-1].decision
        assert decision is not None
        assert {each.model_id: each.standing for each in decision.candidates}["a"] == "serving"
        await client.take_back_alias("chat")

        gates = Gates(evaluations=1, confidence=0.5, trust=ScoreGate(at_least=0.5))
        await client.promote_alias("chat", "b", gates=gates)
        await client.pin_model("c")
        await client.load_model("c")
        with pytest.raises(NotEnoughMemory, match=r"d@1 does not fit: with a, .* and c, which may not leave"):
            await client.promote_alias("chat", "d")
        await client.log_model_evaluation("b", "cycle", 0.9)
        await promotion(client, None)
        (ended,) = [
            event.data
            for event in await history(client, "alias.chat.promotion_stopped")
            if isinstance(event.data, PromotionStopped) and event.data.reason != "requested"
        ]
        assert ended.reason == "not_enough_memory"
        assert ended.detail.startswith("b@1 does not fit: with a")
