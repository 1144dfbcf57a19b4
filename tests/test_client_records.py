"""What is recorded and asked for through the client, on a real service; and what only a made-up one does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import suite
from suite.config import ConnectionFile
from suite.errors import Conflict, EvaluationNotFound, InvalidRequest, ModelNotFound, NodeLost
from suite.messages.actions.projections import RebuildProjectionReply
from suite.messages.signals import Folded, Heartbeat
from support.faults import KillableServer
from support.models import tiny_model
from support.nodes import client_of_node
from support.responder import Call, responding
from support.service import service_and_client


async def test_metrics_are_logged_once_listed_page_by_page_and_summed_up(tmp_path: Path) -> None:
    async with client_of_node(tmp_path / "models", tmp_path / "data") as client:
        for number in range(205):
            logged = await client.log_performance_metric(
                "planner", "latency_ms", number, timestamp=1_700_000_000 + number, metric_id=f"m{number}"
            )
        again = await client.log_performance_metric(
            "planner", "latency_ms", 204, timestamp=1_700_000_204, metric_id="m204"
        )
        assert again.seq == logged.seq == await client.last_seq()
        with pytest.raises(Conflict):
            await client.log_performance_metric("planner", "latency_ms", -1, metric_id="m204")
        other = await client.log_performance_metric("critic", "drift", 0.5, context={"b": 1, "a": [2]})
        assert other.metric_id

        page = await client.get_performance_metrics(agent_name="critic", min_seq=other.seq)
        assert [(each.metric_name, each.value, each.context) for each in page.metrics] == [
            ("drift", 0.5, '{"a":[2],"b":1}')
        ]
        assert page.next_cursor is None
        page = await client.get_performance_metrics(metric_name="latency_ms", limit=2)
        assert [each.metric_id for each in page.metrics] == ["m204", "m203"]
        page = await client.get_performance_metrics(
            metric_name="latency_ms", limit=2, cursor=page.next_cursor
        )
        assert [each.metric_id for each in page.metrics] == ["m202", "m201"]
        values = [each.value async for each in client.performance_metrics(metric_name="latency_ms")]
        assert values == list(range(204, -1, -1))
        window = client.performance_metrics(since=1_700_000_010, until=1_700_000_012)
        assert [each.value async for each in window] == [11, 10]

        summary = await client.summary("latency_ms", agent_name="planner", min_seq=logged.seq)
        assert summary.total is not None
        assert (summary.total.count, summary.total.min, summary.total.max) == (205, 0, 204)
        assert [each.agent_name for each in summary.by_agent] == ["planner"]
        with pytest.raises(InvalidRequest, match="until"):
            await client.summary("latency_ms", since=2, until=1)


async def test_the_log_is_read_as_another_user_and_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    async with service_and_client(tmp_path / "models", tmp_path / "data") as (service, client):
        for number in range(1, 31):
            logged = await client.log_performance_metric("agent", "latency_ms", number)
            newest = [event.seq async for event in client.events("metric")][-1]
            assert newest == logged.seq == await client.last_seq()
        found = service.connection_file()
        assert found.reader is not None
        assert (found.user, found.reader.user) == ("operator", "consumer")
        text = ConnectionFile.path(tmp_path / "data").read_text()
        server = json.loads((tmp_path / "data" / "nats" / "nats-server.conf").read_bytes())
        secrets = {
            user["user"]: user["password"]
            for account in server["accounts"].values()
            for user in account["users"]
        }
        assert {name for name, secret in secrets.items() if secret in text} == {"operator", "consumer"}
        consumer = suite.connect(found.url, user="consumer", password=secrets["consumer"])
        async with consumer as reader:
            assert len([event async for event in reader.events("metric")]) == 30


async def test_evaluations_are_logged_compared_and_retracted(tmp_path: Path) -> None:
    async with client_of_node(tmp_path / "models", tmp_path / "data") as client:
        for number, trust in enumerate((0.4, 0.8)):
            logged = await client.log_model_evaluation(
                "phi",
                f"c{number}",
                trust,
                accuracy=trust,
                comparison_data={"n": number},
                evaluation_id=f"e{number}",
                evaluation_timestamp=f"2026-01-0{number + 1} 12:00:00",
            )
        await client.log_model_evaluation("gemma", "c1", 0.1)
        listed = [each async for each in client.model_evaluations(model_name="phi", min_seq=logged.seq)]
        assert [(each.evaluation_id, each.comparison_data) for each in listed] == [
            ("e1", '{"n":1}'),
            ("e0", '{"n":0}'),
        ]
        compared = (await client.compare_models(["phi", "gemma"], min_seq=logged.seq)).models
        assert [each.model_name for each in compared] == ["phi", "gemma"]
        assert compared[0].cycle_id == "c1"
        assert compared[0].change.accuracy == pytest.approx(0.4)

        retracted = await client.retract_model_evaluation("e1", reason="the wrong model")
        assert (retracted.model_name, retracted.retracted) == ("phi", True)
        assert (await client.retract_model_evaluation("e1")).retracted
        page = await client.get_model_evaluation_scores(cycle_id="c1", min_seq=retracted.seq)
        assert [each.model_name for each in page.evaluations] == ["gemma"]
        with pytest.raises(EvaluationNotFound):
            await client.retract_model_evaluation("e9")


async def test_usage_predictions_and_the_fleet(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name in ("one", "two"):
        tiny_model(tmp_path / "models" / f"{name}.gguf")
    async with client_of_node(tmp_path / "models", tmp_path / "data") as client:
        for model_id, count in (("two", 2), ("elsewhere", 1)):
            for _number in range(count):
                recorded = await client.record_usage(model_id, "transcription", conversation_id="c")
        counted = await client.usage(group_by=("model", "usage_type"), min_seq=recorded.seq)
        assert [(each.model_id, each.usage_type, each.uses) for each in counted.usage] == [
            ("two", "transcription", 2),
            ("elsewhere", "transcription", 1),
        ]
        assert (await client.usage(conversation_id="none")).usage == ()
        predicted = await client.predict_models(limit=1, min_seq=recorded.seq)
        assert predicted.predicted_models == ("two",)

        preloaded = await client.preload_models(["two", "three"])
        assert preloaded.results["two"].loaded
        assert preloaded.results["three"].code == "model_not_found"
        selected = await client.select_model()
        assert (selected.model_id, selected.loaded, selected.others) == ("two", True, ("one",))
        with pytest.raises(ModelNotFound):
            await client.select_model("flying")

        fleet = await client.get_fleet(min_seq=preloaded.results["two"].seq or 0)
        two = next(model for model in fleet.models if model.model_id == "two")
        assert (two.loads, len(two.loaded_on)) == (1, 1)
        assert (await client.get_errors(severity="critical")).errors == ()


async def test_a_read_model_is_rebuilt_with_progress(tmp_path: Path) -> None:
    async with client_of_node(tmp_path / "models", tmp_path / "data") as client:
        recorded = await client.record_usage("phi")
        progress: list[float] = []
        rebuilt = await client.rebuild_projection("usage", on_progress=progress.append)
        assert (rebuilt.name, rebuilt.events) == ("usage", 1)
        assert rebuilt.seq >= recorded.seq
        assert progress == sorted(progress)
        assert [each.uses for each in (await client.usage()).usage] == [1]


async def test_a_rebuild_goes_on_while_signs_of_life_come_and_is_lost_when_they_stop(tmp_path: Path) -> None:
    async def rebuild_projection(call: Call) -> None:
        assert call.body["stream"] is True
        await call.send(Folded(name=call.body["name"], fraction=0.5), Heartbeat())
        if call.body["name"] == "usage":
            await call.send(RebuildProjectionReply(name="usage", events=3, seconds=0.1, seq=7), b"")

    async with (
        KillableServer.start(tmp_path) as server,
        responding(server.access, rebuild_projection=rebuild_projection),
        suite.connect(server.access.url, silence_seconds=0.3) as client,
    ):
        progress: list[float] = []
        assert (await client.rebuild_projection("usage", on_progress=progress.append)).seq == 7
        assert progress == [0.5]
        with pytest.raises(NodeLost):
            await client.rebuild_projection("errors")
