"""Metrics, evaluations, usage and what they lead to, as clients of any language send and get them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from suite.bus.connection import Connection
from suite.config import ConnectionFile
from suite.projections import projector
from support.models import tiny_model
from support.nodes import client_of_node

PROJECTIONS = ("catalogue", "usage", "evaluation", "errors", "history")
METRIC: dict[str, Any] = {"agent_name": "a", "metric_name": "latency", "value": 1.5}
EVALUATION: dict[str, Any] = {
    "model_name": "tiny",
    "cycle_id": "c1",
    "trust_score": 0.9,
    "accuracy": 0.8,
    "f1_score": 0.7,
}


class Asker:
    """A client that knows nothing but NATS and JSON."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def ask(self, action: str, fields: dict[str, Any] | bytes) -> dict[str, Any]:
        body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        answer = await self._connection.request(f"suite.action.{action}", body, timeout=30)
        return dict(json.loads(answer.data))

    async def done(self, action: str, **fields: Any) -> dict[str, Any]:
        reply = await self.ask(action, fields)
        assert reply["status"] in ("success", "HEALTHY"), reply
        return reply

    async def refused(self, action: str, **fields: Any) -> dict[str, Any]:
        reply = await self.ask(action, fields)
        assert reply["status"] == "error", reply
        return reply


@asynccontextmanager
async def service(directory: Path, config: Path | None = None) -> AsyncIterator[Asker]:
    models = directory / "models"
    models.mkdir(exist_ok=True)
    if not (models / "tiny.gguf").exists():
        tiny_model(models / "tiny.gguf")
    async with client_of_node(models, directory / "suite", config=config):
        access = ConnectionFile.read(directory / "suite").access
        async with Connection.open(access, name="test") as connection:
            yield Asker(connection)


async def test_an_id_is_logged_once_and_never_with_other_content(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
            ("log_performance_metric", METRIC | {"metric_id": "same"}, {"value": 2}),
            ("log_model_evaluation", EVALUATION | {"evaluation_id": "same"}, {"trust_score": 0.1}),
        ]
        for action, fields, other in cases:
            first = await client.done(action, **fields)
            assert (await client.done(action, **fields))["seq"] == first["seq"]
            conflict = await client.refused(action, **(fields | other))
            assert conflict["code"] == "conflict" and "same" in conflict["message"]
            # Beside each other neither has seen the other: the server's memory for ids decides.
            replies: list[dict[str, Any]] = []

            async def race(action: str, fields: dict[str, Any], into: list[dict[str, Any]]) -> None:
                into.append(await client.ask(action, fields))

            name = "metric_id" if "metric_id" in fields else "evaluation_id"
            async with anyio.create_task_group() as tasks:
                for number in range(8):
                    changed = fields | {name: "raced"} | (other if number % 2 else {})
                    tasks.start_soon(race, action, changed, replies)
            won = [reply for reply in replies if reply["status"] == "success"]
            assert len(won) == 4 and len({reply["seq"] for reply in won}) == 1
            assert {reply["code"] for reply in replies if reply not in won} == {"conflict"}
        metrics = await client.done("get_performance_metrics")
        assert sorted(each["metric_id"] for each in metrics["metrics"]) == ["raced", "same"]


async def test_an_id_is_known_after_a_restart_too(tmp_path: Path) -> None:
    given = EVALUATION | {"evaluation_id": "e"}
    async with service(tmp_path) as client:
        first = await client.done("log_model_evaluation", **given)
    async with service(tmp_path) as client:
        assert (await client.done("log_model_evaluation", **given))["seq"] == first["seq"]
        assert (await client.refused("log_model_evaluation", **given | {"accuracy": 0.1}))[
            "code"
        ] == "conflict"


async def test_a_retraction_corrects_what_was_said_everywhere(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        for cycle, trust, name in (("c1", 0.9, "good"), ("c2", 0.1, "wrong")):
            await client.done(
                "log_model_evaluation",
                **EVALUATION | {"cycle_id": cycle, "trust_score": trust, "evaluation_id": name},
            )
        (before,) = (await client.done("compare_models"))["models"]
        assert (before["cycle_id"], before["previous_cycle_id"]) == ("c2", "c1")
        assert before["change"]["trust_score"] == pytest.approx(-0.8)
        assert before["change"]["trust"] < 0
        retracted = await client.done("retract_model_evaluation", evaluation_id="wrong", reason="typo")
        assert retracted["retracted"] is True and retracted["model_name"] == "tiny"
        again = await client.done("retract_model_evaluation", evaluation_id="wrong")
        assert again["seq"] == retracted["seq"]
        (after,) = (await client.done("compare_models", min_seq=retracted["seq"]))["models"]
        assert after["scores"]["trust"] > before["scores"]["trust"]
        assert (after["cycle_id"], after["previous_cycle_id"]) == ("c1", None)
        rows = (await client.done("get_model_evaluation_scores"))["evaluations"]
        assert [row["evaluation_id"] for row in rows] == ["good"]
        assert (await client.done("select_model"))["trust"] == after["scores"]["trust"]
        used = await client.refused("log_model_evaluation", **EVALUATION | {"evaluation_id": "wrong"})
        assert used["code"] == "conflict"
        unknown = await client.refused("retract_model_evaluation", evaluation_id="none")
        assert unknown["code"] == "evaluation_not_found"


async def test_a_summary_counts_what_was_logged(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        for value in range(1, 101):
            logged = await client.done(
                "log_performance_metric", **METRIC | {"value": value, "agent_name": f"a{value % 2}"}
            )
        reply = await client.done("summary", metric_name="latency", min_seq=logged["seq"])
        total = reply["total"]
        assert (total["count"], total["mean"], total["min"], total["max"]) == (100, 50.5, 1, 100)
        assert total["p50"] == pytest.approx(50, rel=0.03) and total["p99"] == pytest.approx(99, rel=0.02)
        assert [(each["agent_name"], each["count"]) for each in reply["by_agent"]] == [("a0", 50), ("a1", 50)]
        nothing = await client.done("summary", metric_name="other")
        assert nothing["total"] is None and nothing["by_agent"] == []


async def test_usage_is_counted_and_leads_to_predictions(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        answer = await client.done(
            "generate_text", model_id="tiny", prompt="secret words", max_tokens=2, conversation_id="c"
        )
        for _ in range(3):
            await client.done("record_usage", model_id="later", usage_type="chat")
        recorded = await client.done("record_usage", model_id="tiny", conversation_id="c")
        tiny = (await client.done("get_model_status", model_id="tiny"))["model"]
        reply = await client.done("usage", min_seq=max(answer["seq"], recorded["seq"]))
        assert [(each["model_id"], each["uses"]) for each in reply["usage"]] == [("later", 3), ("tiny", 2)]
        assert tiny["last_used"] == reply["usage"][1]["last_used_at"]
        reply = await client.done(
            "usage", conversation_id="c", group_by=["conversation", "usage_type", "day"]
        )
        kinds = {each["usage_type"]: each for each in reply["usage"]}
        assert kinds.keys() == {"generation", "inference"}
        assert kinds["generation"]["completion_tokens"] == answer["usage"]["completion_tokens"]
        predicted = await client.done("predict_models")
        assert predicted["predicted_models"] == ["later", "tiny"]
        assert (await client.done("predict_models", limit=1))["predicted_models"] == ["later"]
        chosen = await client.done("select_model")
        assert (chosen["model_id"], chosen["loaded"]) == ("tiny", True)
        none = await client.refused("select_model", capability="flying")
        assert none["code"] == "model_not_found" and "flying" in none["message"]
    for path in (tmp_path / "suite").rglob("*"):
        if path.is_file():
            assert b"secret words" not in path.read_bytes(), path


async def test_a_rebuild_over_the_wire_tells_its_progress(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await client.done("log_performance_metric", **METRIC)
        before = await client.done("get_performance_metrics")
        for name in PROJECTIONS:
            rebuilt = await client.done("rebuild_projection", name=name)
            assert rebuilt["name"] == name and rebuilt["seq"] > 0
        assert await client.done("get_performance_metrics") == before
        assert (await client.refused("rebuild_projection", name="other"))["code"] == "invalid_request"
        fleet = await client.done("get_fleet")
        assert [each["model_id"] for each in fleet["models"]] == ["tiny"]
        stats = await client.done("get_stats")
        assert {each["name"] for each in stats["projections"]} == set(PROJECTIONS)
        assert all(each["problem"] is None for each in stats["projections"])


async def test_what_cannot_be_written_is_degraded_and_says_why(tmp_path: Path) -> None:
    blocker = tmp_path / "blocker"
    blocker.write_text("a file where a directory should be")
    config = tmp_path / "suite.toml"
    config.write_text(f'sqlite_db_path = "{blocker / "model_evaluation.db"}"\n')
    async with service(tmp_path, config) as client:
        logged = await client.done("log_performance_metric", **METRIC)
        with anyio.fail_after(20):
            while (health := await client.ask("health_check", {}))["status"] != "degraded":
                await anyio.sleep(0.05)
        assert str(blocker) in health["problems"][0]
        refused = await client.refused("get_performance_metrics")
        assert refused["code"] == "read_model_unavailable" and str(blocker) in refused["message"]
        assert (await client.done("usage"))["usage"] == []
        counts = (await client.done("get_stats"))["metrics"]
        assert counts["performance_logs"] is counts["trust_score_updates"] is None
        assert counts["models_loaded"] == 0 and counts["models_tracked"] == 1
        reported = await client.done("get_errors", severity="error")
        assert reported["errors"][0]["error_type"] == "read_model_unavailable"
        blocker.unlink()
        with anyio.fail_after(20):
            while (await client.ask("health_check", {}))["status"] != "HEALTHY":
                await anyio.sleep(0.05)
        metrics = await client.done("get_performance_metrics", min_seq=logged["seq"])
        assert [each["metric_id"] for each in metrics["metrics"]] == [logged["metric_id"]]


async def test_switched_off_groups_say_what_switches_them_on(tmp_path: Path) -> None:
    config = tmp_path / "suite.toml"
    config.write_text("enable_model_evaluation = false\nenable_gguf_management = false\n")
    async with service(tmp_path, config) as client:
        for action, fields, setting in (
            ("log_performance_metric", METRIC, "enable_model_evaluation"),
            ("load_model", {"model_id": "tiny"}, "enable_gguf_management"),
        ):
            refused = await client.refused(action, **fields)
            assert refused["code"] == "disabled" and setting in refused["message"]
        assert (await client.done("list_models"))["models"][0]["model_id"] == "tiny"


async def test_samples_expire_and_trust_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector, "EXPIRE_SECONDS", 0.1)
    config = tmp_path / "suite.toml"
    config.write_text("[retention]\nmetric_days = 0.00006\nusage_days = 0.00006\n")  # 5 seconds
    async with service(tmp_path, config) as client:
        await client.done("generate_text", model_id="tiny", prompt="the", max_tokens=1)
        assert len((await client.done("usage"))["usage"]) == 1
        await client.done("log_performance_metric", **METRIC)
        assert len((await client.done("get_performance_metrics"))["metrics"]) == 1
        assert (await client.done("summary", metric_name="latency"))["total"]["count"] == 1
        await client.done("log_model_evaluation", **EVALUATION)
        trust = (await client.done("compare_models"))["models"][0]["scores"]["trust"]
        with anyio.fail_after(40):
            while True:
                metrics = (await client.done("get_performance_metrics"))["metrics"]
                total = (await client.done("summary", metric_name="latency"))["total"]
                usage = (await client.done("usage"))["usage"]
                if not metrics and total is None and not usage:
                    break
                await anyio.sleep(0.2)
        await client.done("rebuild_projection", name="evaluation")
        assert (await client.done("compare_models"))["models"][0]["scores"]["trust"] == trust
        assert len((await client.done("get_model_evaluation_scores"))["evaluations"]) == 1


async def test_large_contexts_come_in_pages_that_fit(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        for number in range(8):
            logged = await client.done(
                "log_performance_metric", **METRIC | {"value": number, "context": "x" * 200_000}
            )
        values: list[float] = []
        page = await client.done("get_performance_metrics", min_seq=logged["seq"])
        while page["next_cursor"] is not None:
            values += [each["value"] for each in page["metrics"]]
            page = await client.done("get_performance_metrics", cursor=page["next_cursor"])
        values += [each["value"] for each in page["metrics"]]
        assert values == [7, 6, 5, 4, 3, 2, 1, 0]


BAD: list[tuple[str, dict[str, Any] | bytes, str, str]] = [
    ("log_performance_metric", b'{"agent_name": "a", "metric_name": "m", "value": NaN}', "invalid_json", ""),
    ("log_performance_metric", b'{"agent_name": "a", "metric_name": "m", "value": 1e999}', "", "value"),
    ("log_performance_metric", METRIC | {"value": "1.5"}, "invalid_request", "value"),
    ("log_performance_metric", METRIC | {"value": True}, "invalid_request", "value"),
    ("log_performance_metric", METRIC | {"value": None}, "invalid_request", "value"),
    ("log_performance_metric", METRIC | {"timestamp": "yesterday"}, "invalid_request", "timestamp"),
    ("log_performance_metric", METRIC | {"timestamp": 1e300}, "invalid_request", "timestamp"),
    ("log_performance_metric", METRIC | {"timestamp": "2026-02-30"}, "invalid_request", "timestamp"),
    ("log_performance_metric", METRIC | {"agent_name": ""}, "invalid_request", "agent_name"),
    ("log_performance_metric", METRIC | {"agent_name": "é" * 200}, "invalid_request", "255"),
    ("log_performance_metric", METRIC | {"metric_id": "x" * 201}, "invalid_request", "metric_id"),
    ("log_performance_metric", METRIC | {"context": "x" * 300_000}, "too_large", "context"),
    ("log_model_evaluation", EVALUATION | {"trust_score": 1.01}, "invalid_request", "trust_score"),
    ("log_model_evaluation", EVALUATION | {"trust_score": -0.1}, "invalid_request", "trust_score"),
    ("log_model_evaluation", EVALUATION | {"avg_latency_ms": -1}, "invalid_request", "avg_latency_ms"),
    ("log_model_evaluation", EVALUATION | {"evaluation_timestamp": "x"}, "invalid_request", "evaluation_ti"),
    ("get_performance_metrics", {"limit": 0}, "invalid_request", "limit"),
    ("get_performance_metrics", {"limit": 1_000_000}, "invalid_request", "limit"),
    ("get_performance_metrics", {"since": "soon"}, "invalid_request", "since"),
    ("get_performance_metrics", {"cursor": "'; DROP TABLE"}, "invalid_request", "cursor"),
    ("get_model_evaluation_scores", {"until": "never"}, "invalid_request", "until"),
    ("get_model_evaluation_scores", {"limit": -1}, "invalid_request", "limit"),
    ("summary", {"metric_name": "m", "since": []}, "invalid_request", "since"),
    ("usage", {"group_by": ["moon"]}, "invalid_request", "group_by"),
    ("usage", {"since": "?"}, "invalid_request", "since"),
    ("get_errors", {"cursor": "x"}, "invalid_request", "cursor"),
    ("predict_models", {"limit": 0}, "invalid_request", "limit"),
    ("preload_models", {"model_ids": []}, "invalid_request", "model_ids"),
    ("preload_models", {"model_ids": "tiny"}, "invalid_request", "model_ids"),
    ("record_usage", {}, "invalid_request", "model_id"),
    ("retract_model_evaluation", {}, "invalid_request", "evaluation_id"),
]

WICKED = "x'); DROP TABLE performance_metrics; --"


async def test_bad_input_is_refused_by_name_and_nothing_is_lost(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        kept = await client.done("log_performance_metric", **METRIC)
        for action, fields, code, named in BAD:
            reply = await client.ask(action, fields)
            assert reply["status"] == "error", (action, fields, reply)
            assert reply["code"] in ((code,) if code else ("invalid_json", "invalid_request")), (
                fields,
                reply,
            )
            assert not code or named in reply["message"], (action, fields, reply)
        wicked = await client.done(
            "log_performance_metric", agent_name=WICKED, metric_name=WICKED, value=1, metric_id=WICKED
        )
        rows = await client.done("get_performance_metrics", agent_name=WICKED, min_seq=wicked["seq"])
        assert [row["metric_id"] for row in rows["metrics"]] == [WICKED]
        everything = await client.done("get_performance_metrics")
        assert {row["metric_id"] for row in everything["metrics"]} == {kept["metric_id"], WICKED}
        beyond = await client.refused("get_performance_metrics", min_seq=wicked["seq"] + 1000)
        assert beyond["code"] == "invalid_request"
        assert f"'min_seq': the log has no event {wicked['seq'] + 1000} yet" in beyond["message"]
