"""Every action of the older services, in every shape that their clients send, over ZeroMQ and over NATS."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import psutil
import pytest
import zmq
import zmq.asyncio

from suite.bus.connection import Connection
from support.models import slow_model, tiny_model
from support.ports import free_ports
from support.service import Serving, serving

Fields: TypeAlias = dict[str, Any]
Ask: TypeAlias = Callable[[str, Fields], Awaitable[Fields]]

CONFIG = """
ModelManagerSuite:
  script_path: phase1/model_manager_suite.py
  port: {port}
  health_check_port: {health_port}
  required: true
  dependencies: [CoreOrchestrator]
  config:
    enable_gguf_management: true
    enable_predictive_loading: true
    enable_model_evaluation: true
    sqlite_db_path: "{database}"
    models_directory: "{models}"
    vram_limit_gb: 2
    prediction_interval_seconds: 300
    enable_backward_compatibility: true
  startup: {{order: 2, wait_for_dependencies: true}}
model_configs:
  tiny: {{display_name: Tiny, context_length: 256, n_threads: 1, capabilities: [chat], priority: high}}
"""


class Old:
    """A service as an old installation starts it, and its clients."""

    def __init__(self, service: Serving, ports: list[int], database: Path) -> None:
        self.service = service
        self.port, self.health_port, self.errors_port = ports
        self.database = database
        self.context = zmq.asyncio.Context()

    @asynccontextmanager
    async def client(self, port: int | None = None) -> AsyncIterator[zmq.asyncio.Socket]:
        with self.context.socket(zmq.REQ) as socket:
            socket.linger = 0
            socket.connect(f"tcp://127.0.0.1:{port or self.port}")
            yield socket

    async def request(self, fields: dict[str, Any]) -> dict[str, Any]:
        async with self.client() as socket:
            await socket.send_string(json.dumps(fields))
            return dict(json.loads(await socket.recv()))


@asynccontextmanager
async def old_installation(directory: Path, *more: Callable[[Path], Path]) -> AsyncIterator[Old]:
    """With a model `tiny`, and one of each of these kinds under the kind's name."""
    models = directory / "models"
    models.mkdir()
    tiny_model(models / "tiny.gguf")
    for model in more:
        model(models / f"{model.__name__}.gguf")
    port, health_port, errors_port = free_ports(3)
    database = directory / "data" / "model_evaluation.db"
    config = directory / "startup_config.yaml"
    config.write_text(CONFIG.format(port=port, health_port=health_port, models=models, database=database))
    environ = {"SUITE_LEGACY_ERRORS_PORT": str(errors_port)}
    async with serving([], directory / "suite", "--config", str(config), environ=environ) as service:
        old = Old(service, [port, health_port, errors_port], database)
        try:
            yield old
        finally:
            old.context.destroy(linger=0)


@asynccontextmanager
async def asking(old: Old, transport: str) -> AsyncIterator[Ask]:
    if transport == "zmq":

        async def over_zmq(action: str, fields: dict[str, Any]) -> dict[str, Any]:
            return await old.request({"action": action, **fields})

        yield over_zmq
        return
    async with Connection.open(old.service.connection_file().access, name="old") as connection:

        async def over_nats(action: str, fields: dict[str, Any]) -> dict[str, Any]:
            body = json.dumps({"action": action, **fields}).encode()
            answer = await connection.request(f"suite.action.{action}", body, timeout=30)
            return dict(json.loads(answer.data))

        yield over_nats


METRIC: Fields = {
    "agent_name": "Agent",
    "metric_name": "latency",
    "value": 1.5,
    "context": {"host": "a"},
}
EVALUATION: Fields = {
    "model_name": "tiny",
    "cycle_id": "c1",
    "trust_score": 0.9,
    "accuracy": 0.8,
    "f1_score": 0.7,
}


@pytest.mark.parametrize("transport", ["zmq", "nats"])
async def test_every_action_in_every_shape(tmp_path: Path, transport: str) -> None:
    async with old_installation(tmp_path) as old, asking(old, transport) as ask:

        async def done(action: str, fields: dict[str, Any]) -> dict[str, Any]:
            """The same reply in whatever shape the arguments come, and with a slash before the action."""
            reply = await ask(action, fields)
            assert reply["status"] in ("success", "HEALTHY"), (action, reply)
            for name, shape in ((action, {"data": fields}), (f"/{action}", fields)):
                other = await ask(name, shape)
                assert (other["status"], other.keys()) == (reply["status"], reply.keys()), (name, other)
            return reply

        nothing: list[Fields] = [{}, {"data": {}}]
        for fields in nothing:
            refused = await ask("load_model", fields)
            assert refused["status"] == "error" and "model_id" in refused["message"]
        assert (await done("load_model", {"model_id": "tiny"}))["loaded"] is True

        prompt: Fields = {"model_id": "tiny", "prompt": "the", "conversation_id": "c", "system_prompt": "be"}
        options: Fields = {"max_tokens": 2, "temperature": 0.7, "top_p": 0.95, "stop": ["\n"]}
        for action in ("generate_text", "generate", "/generate_text"):
            for shape in (prompt | options, {"data": prompt | options}, prompt | {"params": options}):
                answer = await ask(action, shape)
                assert answer["status"] == "success", (action, shape, answer)
                assert answer["model_id"] == "tiny" and answer["conversation_id"] == "c"
                assert isinstance(answer["text"], str) and isinstance(answer["using_kv_cache"], bool)
                assert answer["usage"]["completion_tokens"] <= 2
        assert answer["using_kv_cache"] is True

        (model,) = (await done("list_models", {}))["models"]
        assert (model["model_id"], model["display_name"], model["loaded"]) == ("tiny", "Tiny", True)
        assert model["n_ctx"] == 256 and model["n_threads"] == 1 and model["n_gpu_layers"] == -1
        assert model["capabilities"] == ["chat"] and model["estimated_vram_mb"] > 0
        assert model["model_path"].endswith("tiny.gguf") and model["idle_timeout_seconds"] == 300
        assert model["last_used"] and model["idle_time"] >= 0
        status = (await done("get_model_status", {"model_id": "tiny"}))["model"]
        assert status["status"] == "loaded" and status["error"] is None and status["priority"] == "high"
        assert status["serving_method"] == "gguf_direct"
        assert (await done("get_model_status", {}))["models"]["tiny"]["loaded"] is True

        assert (await done("record_usage", {"model_id": "unknown yet", "usage_type": "chat"}))["message"]
        assert (await done("predict_models", {}))["predicted_models"] == ["tiny", "unknown yet"]
        preloaded = (await done("preload_models", {"model_ids": ["tiny", "none"]}))["results"]
        assert preloaded["tiny"]["loaded"] is True and preloaded["none"]["code"] == "model_not_found"

        shapes: list[Fields] = [METRIC, {"data": METRIC}, {"metric": METRIC}, {"data": {"metric": METRIC}}]
        for shape in shapes:
            logged = await ask("log_performance_metric", shape)
            assert logged["status"] == "success" and logged["message"] and logged["metric_id"]
        given: Fields = METRIC | {"metric_id": "m", "timestamp": "2026-01-31 12:00:00", "context": "text"}
        assert (await done("log_performance_metric", given))["metric_id"] == "m"
        metrics = (await done("get_performance_metrics", {"agent_name": "Agent"}))["metrics"]
        assert len(metrics) == 5 and metrics[0]["metric_id"] == logged["metric_id"]
        assert metrics[-1] | {"timestamp": ""} == given | {"timestamp": ""}
        assert json.loads(metrics[0]["context"]) == {"host": "a"}
        assert (
            len((await ask("get_performance_metrics", {"metric_name": "latency", "limit": 2}))["metrics"])
            == 2
        )

        shapes = [EVALUATION, {"data": EVALUATION}, {"evaluation": EVALUATION}]
        for shape in shapes:
            evaluated = await ask("log_model_evaluation", shape)
            assert evaluated["status"] == "success" and evaluated["message"] and evaluated["evaluation_id"]
        scores = (await done("get_model_evaluation_scores", {"model_name": "tiny"}))["evaluations"]
        assert len(scores) == 3 and scores[0]["evaluation_id"] == evaluated["evaluation_id"]
        assert EVALUATION.items() <= scores[0].items()
        assert scores[0]["avg_latency_ms"] == 0 and scores[0]["evaluation_timestamp"]

        health = await done("health_check", {})
        assert health["status"] == "HEALTHY" and health["agent"] == "ModelManagerSuite"
        assert health["models_loaded"] == health["models_tracked"] == 1 and health["commands_processed"] > 0
        stats = await done("get_stats", {})
        assert stats["models_loaded"] == stats["models_tracked"] == 1
        assert stats["metrics"] == {
            "performance_logs": 5,
            "trust_score_updates": 3,
            "models_tracked": 1,
            "predictions_made": stats["metrics"]["predictions_made"],
            "models_loaded": 1,
            "models_unloaded": 0,
        }

        assert (await done("unload_model", {"model_id": "tiny"}))["unloaded"] is True
        unknown = await ask("make_coffee", {})
        assert unknown["status"] == "error" and unknown["message"] == "Unknown action: make_coffee"
        missing = await ask("log_model_evaluation", {"evaluation": {"model_name": "tiny"}})
        assert missing["status"] == "error" and "cycle_id" in missing["message"]

        with closing(sqlite3.connect(f"{old.database.as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT metric_id, agent_name, metric_name, value, timestamp, context "
                "FROM performance_metrics WHERE metric_id = 'm'"
            ).fetchall()
            assert rows == [("m", "Agent", "latency", 1.5, "2026-01-31 12:00:00.000000", "text")]
            evaluations = database.execute(
                "SELECT evaluation_id, model_name, cycle_id, trust_score, accuracy, f1_score, "
                "avg_latency_ms, evaluation_timestamp, comparison_data FROM model_evaluation_scores"
            ).fetchall()
            assert len(evaluations) == 3


async def test_the_health_port_answers_to_anything(tmp_path: Path) -> None:
    async with old_installation(tmp_path) as old:
        for content in (b"", b"health", b'{"action": "health_check"}', b"\xff\x00"):
            async with old.client(old.health_port) as socket:
                await socket.send(content)
                reply = json.loads(await socket.recv())
                assert reply["status"] == "HEALTHY" and len(reply["timestamp"]) == 19


async def test_a_slow_generation_blocks_nobody_and_a_dead_client_harms_nobody(tmp_path: Path) -> None:
    async with old_installation(tmp_path, slow_model) as old:
        slow: Fields = {"action": "generate_text", "model_id": "slow_model", "prompt": "the"}
        slow |= {"max_tokens": 4000, "temperature": 0}
        replies: list[Fields] = []

        async def running(count: int) -> None:
            with anyio.fail_after(30):
                while (await old.request({"action": "get_stats"}))["generations_running"] != count:
                    await anyio.sleep(0.02)

        async def ask(fields: Fields) -> None:
            replies.append(await old.request(fields))

        async with old.client() as dying:
            await dying.send_string(json.dumps(slow | {"generation_id": "of the dead"}))
            await running(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, slow | {"generation_id": "of the living"})
            await running(2)
            async with anyio.create_task_group() as quick:
                for _ in range(20):
                    quick.start_soon(ask, {"action": "health_check"})
            assert [reply["status"] for reply in replies] == ["HEALTHY"] * 20
            for generation_id in ("of the dead", "of the living"):
                cancel = {"action": "cancel_generation", "generation_id": generation_id}
                assert (await old.request(cancel))["cancelled"] is True
        assert (replies[-1]["status"], replies[-1]["finish_reason"]) == ("success", "cancelled")
        await running(0)


async def test_errors_are_published_as_they_were(tmp_path: Path) -> None:
    async with old_installation(tmp_path) as old:
        with old.context.socket(zmq.SUB) as errors:
            errors.linger = 0
            errors.subscribe("ERROR:")
            errors.connect(f"tcp://127.0.0.1:{old.errors_port}")
            assert (await old.request({"action": "load_model", "model_id": "tiny"}))["loaded"] is True
            (model,) = (await old.request({"action": "list_models"}))["models"]
            with anyio.fail_after(30):
                while True:  # who subscribes hears nothing until the connection is there
                    psutil.Process(model["instance"]["pid"]).kill()
                    with anyio.move_on_after(1):
                        text = await errors.recv_string()
                        break
                    await old.request({"action": "load_model", "model_id": "tiny"})
                    (model,) = (await old.request({"action": "list_models"}))["models"]
            error = json.loads(text.removeprefix("ERROR:"))
            assert error.keys() == {"error_type", "message", "severity", "timestamp", "agent", "port"}
            assert error["error_type"] == "actor_crashed" and error["severity"] == "error"
            assert error["port"] == old.port and "tiny" in error["message"]


async def test_what_was_learned_survives_a_restart_without_its_files(tmp_path: Path) -> None:
    async with old_installation(tmp_path) as old:
        await old.request({"action": "log_performance_metric", **METRIC})
        await old.request({"action": "log_model_evaluation", **EVALUATION})
        before = await old.request({"action": "get_model_evaluation_scores"})
        data_dir, config = old.service.data_dir, tmp_path / "startup_config.yaml"
        environ = {"SUITE_LEGACY_ERRORS_PORT": str(old.errors_port)}
        assert await old.service.stop() == 0
        for path in (old.database, *(data_dir / "projections").iterdir()):
            path.unlink()
        async with serving([], data_dir, "--config", str(config), environ=environ):
            assert await old.request({"action": "get_model_evaluation_scores"}) == before
            metrics = await old.request({"action": "get_performance_metrics"})
            assert [each["value"] for each in metrics["metrics"]] == [1.5]
