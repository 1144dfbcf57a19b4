"""What is likely to be used is loaded before anybody asks, and it is settled what that was worth."""

from __future__ import annotations

from contextlib import aclosing
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import anyio
import msgspec
import pytest

import suite
from suite.client import Client
from suite.config import Settings
from suite.config.settings import NatsSettings
from suite.errors import NotEnoughMemory
from suite.identity import utc_now
from suite.messages.envelope import Recorded
from suite.messages.events import Event, PredictionMade, PredictionSettled, RequestsRefused
from suite.node.admission import Terms
from suite.node.node import Node
from suite.node.startup import running_node
from suite.prediction.chance import HORIZON_SECONDS
from support.models import slow_model, tiny_model
from support.nats import mirrored_nats, operator_of
from support.service import facts, history, service_and_client

CONFIG = """
enable_predictive_loading = true
prediction_interval_seconds = 0.1
idle_timeout_seconds = 0.5
"""
SECONDS = 30.0


async def test_after_a_restart_what_is_likely_is_loaded_before_anybody_asks(tmp_path: Path) -> None:
    tiny_model(tmp_path / "likely.gguf")
    tiny_model(tmp_path / "other.gguf", seed=1)
    config = tmp_path / "suite.toml"
    config.write_text(CONFIG)
    options = (tmp_path, tmp_path / "data", "--config", str(config))
    async with service_and_client(*options) as (service, client):
        await client.record_usage("likely")
        with anyio.fail_after(SECONDS):
            await happened(client, "instance.*.likely.loaded")
            await client.load_model("other")
            # It was loaded later, so the likely one would have gone before it.
            await happened(client, "instance.*.other.unloaded")
        happened_so_far = facts(await history(client, "instance.*.likely.*"))
        assert happened_so_far.count("instance.load_started") == 1
        assert "instance.unloaded" not in happened_so_far
        await service.kill()
    async with service_and_client(*options) as (_, client):
        with anyio.fail_after(SECONDS):
            lost = await settled(client)
            await happened(client, "instance.*.likely.loaded", number=2)
            await client.generate("likely", "Once", max_tokens=1).finish()
            won = await settled(client, number=2)
        first, second = made(await history(client, "prediction.likely.made"))
        assert first.prediction_id == lost.prediction_id
        assert second.prediction_id == won.prediction_id
        assert (lost.outcome, lost.reason, lost.detail) == ("waste", "left", "restart")
        assert (won.outcome, won.reason, won.used) == ("hit", "used", True)
        assert won.saved_seconds > 0.0
        assert won.byte_seconds > 0.0
        predictions = await client.get_predictions(min_seq=0)
        [likely] = predictions.predictions
        assert (likely.model_id, likely.won, likely.lost, likely.loaded) == ("likely", 1, 1, True)
        assert predictions.bets.count == 1


class Clock:
    """The time, or a later one."""

    ahead = timedelta()

    def now(self) -> datetime:
        return utc_now() + self.ahead


def settings(
    directory: Path,
    *,
    node: str = "box",
    nats: NatsSettings | None = None,
    memory_limit_gb: float | None = None,
) -> Settings:
    return Settings(
        node=node,
        data_dir=directory / node,
        models_directories=(directory / "models",),
        nats=nats or NatsSettings(),
        memory_limit_gb=memory_limit_gb,
        enable_predictive_loading=True,
        prediction_interval_seconds=0.1,
        standby=False,
    )


async def test_a_bet_is_lost_when_its_horizon_has_passed_or_somebody_needs_the_memory_of_its_load(
    tmp_path: Path,
) -> None:
    (tmp_path / "models").mkdir()
    for name in ("likely", "other"):
        slow_model(tmp_path / "models" / f"{name}.gguf")
    clock = Clock()
    async with (
        running_node(settings(tmp_path, memory_limit_gb=0.3), now=clock.now) as node,
        suite.connect(data_dir=tmp_path / "box") as client,
    ):
        await client.record_usage("likely")
        with anyio.fail_after(SECONDS):
            await happened(client, "instance.*.likely.loaded")
            clock.ahead = timedelta(seconds=HORIZON_SECONDS + 60.0)
            lost = await settled(client)
            assert (lost.outcome, lost.reason, lost.used) == ("waste", "not_used", False)
            assert lost.byte_seconds > 0.0
            assert lost.saved_seconds == 0.0
            # It is still likely, so the next bet is taken as soon as it is gone. There is room for one model.
            await client.unload_model("likely")
            await happened(client, "instance.*.likely.load_started", number=2)
            assert (await client.load_model("other")).loaded
            lost = await settled(client, number=2)
            assert (lost.outcome, lost.reason, lost.detail) == ("waste", "failed", "load_cancelled")
            await client.unload_model("other")
            await a_load_gives_way_while_only_a_bet_waits_for_it(node, "other")
            await a_refused_load_for_a_bet_is_no_refused_request(node, client, "other", "likely")
        detailed = await client.predict_models(detail=True)
        assert isinstance(detailed.chances, tuple)
        [chance] = detailed.chances
        assert (chance.model_id, detailed.horizon_seconds) == ("likely", HORIZON_SECONDS)
        assert 0.0 < chance.chance < 1.0
        assert node.predictions_made >= 2


async def a_load_gives_way_while_only_a_bet_waits_for_it(node: Node, model_id: str) -> None:
    hold = partial(node.supervisor.hold, await node.loadable(model_id), correlation_id="c")
    async with hold(Terms(purpose="preload")) as instance:
        assert instance.occupancy.gives_way
        async with hold(Terms()):
            assert not instance.occupancy.gives_way
        assert instance.occupancy.gives_way
        await instance.wait_loaded()
        assert not instance.occupancy.gives_way


async def a_refused_load_for_a_bet_is_no_refused_request(
    node: Node, client: Client, used: str, bet_on: str
) -> None:
    hold = partial(node.supervisor.hold, correlation_id="c")
    async with hold(await node.loadable(used), Terms()):
        with pytest.raises(NotEnoughMemory):
            async with hold(await node.loadable(bet_on), Terms(purpose="preload")):
                pass
    with anyio.fail_after(SECONDS):
        refused = await happened(client, f"admission.*.{bet_on}.refused")
    assert isinstance(refused, RequestsRefused)
    assert (refused.code, refused.purpose) == ("not_enough_memory", "preload")
    total = (await client.get_request_statistics(min_seq=await client.last_seq())).total
    assert (total.refused, total.refusals) == (0, {})


async def test_of_two_nodes_one_bets_for_both_and_each_model_is_loaded_once_where_it_can_be(
    tmp_path: Path,
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "more").mkdir()
    for path in ("models/one.gguf", "more/two.gguf"):
        tiny_model(tmp_path / path)
    async with mirrored_nats(tmp_path) as server, operator_of(server) as client:
        access = server.access
        nats = NatsSettings(
            url=access.url,
            user=access.user,
            password=access.password,
            inbox_prefix=access.inbox_prefix,
        )
        both = settings(tmp_path, node="box2", nats=nats)
        both = msgspec.structs.replace(both, models_directories=(tmp_path / "models", tmp_path / "more"))
        async with running_node(settings(tmp_path, node="box1", nats=nats)), running_node(both):
            with anyio.fail_after(SECONDS):
                for name in ("one", "two"):  # so there are many rounds after the first bet
                    await client.record_usage(name)
                    await happened(client, f"instance.*.{name}.loaded")
            await client.generate("two", "Once", max_tokens=1).finish()
            with anyio.fail_after(SECONDS):
                won = await happened(client, "prediction.two.settled")
            every = made(await history(client, "prediction.*.made"))
            loads = await history(client, "instance.*.*.load_started")
        assert sorted(each.model_id for each in every) == ["one", "two"]
        assert isinstance(won, PredictionSettled)
        assert (won.node, won.outcome) == ("box2", "hit")
        assert len(loads) == 2


async def happened(client: Client, filter: str, *, number: int = 1) -> Event:
    """The event of that number under a filter, once it is there."""
    async with aclosing(client.events(filter, follow=True)) as events:
        for _ in range(number - 1):
            await anext(events)
        return (await anext(events)).data


async def settled(client: Client, *, number: int = 1) -> PredictionSettled:
    event = await happened(client, "prediction.likely.settled", number=number)
    assert isinstance(event, PredictionSettled)
    return event


def made(events: list[Recorded]) -> list[PredictionMade]:
    return [each.data for each in events if isinstance(each.data, PredictionMade)]
