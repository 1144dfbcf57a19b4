"""What a collector gets over OTLP: one trace of a streamed chat over the gateway, of its load, of a bet."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from suite.client import Client
from suite.version import __version__
from support.gateway import RunningGateway
from support.models import CHAT_TEMPLATE, tiny_model
from support.otlp import Collector, Received, otlp_over_http, path_of
from support.service import service_and_client

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
SECRET = "Swordfish"
SECONDS = 30.0
CONFIG = """
enable_predictive_loading = true
prediction_interval_seconds = 0.1
"""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with otlp_over_http() as collector:
        yield collector


@asynccontextmanager
async def traced_service(directory: Path, collector: Collector, *options: str) -> AsyncIterator[Client]:
    models = directory / "models"
    models.mkdir()
    for name in ("tiny", "likely"):
        tiny_model(models / f"{name}.gguf", chat_template=CHAT_TEMPLATE)
    given = ("--trace", "otlp", *options)
    async with service_and_client(models, directory / "data", *given, environ=collector.environ) as (
        _,
        client,
    ):
        yield client


async def test_a_streamed_chat_a_load_and_a_bet_as_a_collector_gets_them(
    tmp_path: Path, collector: Collector
) -> None:
    config = tmp_path / "suite.toml"
    config.write_text(CONFIG)
    async with traced_service(
        tmp_path, collector, "--http", "127.0.0.1:0", "--config", str(config)
    ) as client:
        await anyio.to_thread.run_sync(_chat, _gateway(tmp_path / "data"))
        chat = await anyio.to_thread.run_sync(_whole_chat, collector)
        await client.record_usage("likely")
        with anyio.fail_after(SECONDS):
            while not await _is_loaded(client, "likely"):
                await anyio.sleep(0.05)
        await client.generate("likely", SECRET, max_tokens=1).finish()
        every = await anyio.to_thread.run_sync(
            collector.wait, lambda spans: any(span.name == "settle bet likely" for span in spans)
        )
    _check_chat(chat)
    _check_load(chat)
    _check_processes(chat)
    _check_fold(chat, every)
    _check_bet(every)
    texts = [str(span) for span in every]
    assert not any(SECRET in text for text in texts)


def _gateway(data_dir: Path) -> RunningGateway:
    from suite.config import ConnectionFile

    url = ConnectionFile.read(data_dir).http
    assert url is not None
    return RunningGateway("127.0.0.1", int(url.rpartition(":")[2]), data_dir)


def _chat(gateway: RunningGateway) -> None:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": SECRET}],
        "max_tokens": 3,
        "stream": True,
        "seed": 7,
    }
    answered = gateway.post("/v1/chat/completions", body, {"traceparent": f"00-{TRACE}-{CALLER}-01"})
    assert answered.events[-1] == "[DONE]"


def _whole_chat(collector: Collector) -> list[Received]:
    collector.wait(
        lambda spans: (
            any(span.parent_id == CALLER for span in spans)
            and any(span.name == "process suite.actor.*.*.generate" for span in spans)
            and any(span.name == "process suite.action.generate_text" for span in spans)
        )
    )
    return collector.trace(TRACE)


async def _is_loaded(client: Client, model_id: str) -> bool:
    return any(each.model_id == model_id and each.loaded for each in (await client.list_models()).models)


def _one(spans: list[Received], name: str) -> Received:
    (found,) = [span for span in spans if span.name == name]
    return found


def _check_chat(chat: list[Received]) -> None:
    generation = _one(chat, "chat tiny")
    assert path_of(generation, chat) == [
        "POST /v1/chat/completions",
        "send suite.action.generate_text",
        "process suite.action.generate_text",
        "hand over suite.actor.*.*.generate",
        "process suite.actor.*.*.generate",
        "chat tiny",
    ]
    assert path_of(_one(chat, "append suite.event.usage.*.generated"), chat)[-2] == "chat tiny"
    assert path_of(_one(chat, "reply _INBOX"), chat)[-2] == "process suite.actor.*.*.generate"
    kinds = {span.name.partition(" ")[0]: span.kind for span in chat}
    assert kinds["POST"] == "SERVER"
    assert kinds["send"] == kinds["hand"] == kinds["append"] == kinds["reply"] == "PRODUCER"
    assert kinds["process"] == "CONSUMER"
    assert kinds["chat"] == kinds["load"] == "INTERNAL"
    request = _one(chat, "POST /v1/chat/completions").attributes
    assert request["http.response.status_code"] == 200
    assert request["http.route"] == "/v1/chat/completions"
    assert generation.attributes["gen_ai.operation.name"] == "chat"
    assert generation.attributes["gen_ai.provider.name"] == "llama.cpp"
    assert generation.attributes["gen_ai.request.model"] == "tiny"
    assert generation.attributes["gen_ai.response.model"] == "tiny"
    assert generation.attributes["gen_ai.response.id"]
    assert generation.attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert generation.attributes["gen_ai.request.seed"] == 7
    assert generation.attributes["gen_ai.request.stream"] is True
    assert generation.attributes["gen_ai.usage.output_tokens"] == 3
    assert generation.attributes["gen_ai.usage.input_tokens"] > 3
    assert generation.attributes["gen_ai.response.time_to_first_chunk"] > 0
    append = _one(chat, "append suite.event.usage.*.generated").attributes
    assert append["messaging.system"] == "nats"
    assert append["messaging.operation.name"] == "append"
    assert append["messaging.operation.type"] == "send"
    assert append["cloudevents.event_type"] == "suite.usage.generated.v1"
    assert append["suite.event.seq"] > 0
    assert not any(span.is_error for span in chat)


def _check_load(chat: list[Received]) -> None:
    load = _one(chat, "load tiny")
    assert path_of(load, chat)[-2] == "process suite.action.generate_text"
    phases = [span for span in chat if span.parent_id == load.span_id and not span.name.startswith("append")]
    assert [span.name for span in phases] == ["wait", "reserve", "inspect", "spawn", "map", "warm up"]
    assert phases[0].start_ns == load.start_ns
    for phase, following in zip(phases, phases[1:], strict=False):
        assert phase.end_ns <= following.start_ns
    started = _one(chat, "append suite.event.instance.*.*.load_started")
    assert path_of(started, chat)[-2:] == ["reserve", started.name]
    loaded = _one(chat, "append suite.event.instance.*.*.loaded")
    assert path_of(loaded, chat)[-2:] == ["load tiny", loaded.name]


def _check_processes(chat: list[Received]) -> None:
    by_name = {span.resource["service.name"]: span for span in chat}
    assert set(by_name) == {"suite-gateway", "suite-node", "suite-model"}
    instances = {span.resource["service.instance.id"] for span in by_name.values()}
    assert len(instances) == 3
    for span in by_name.values():
        assert span.resource["service.namespace"] == "suite"
        assert span.resource["service.version"] == __version__
        assert span.scope == ("suite", __version__)
        assert span.schema_url == "https://opentelemetry.io/schemas/1.45.0"


def _check_fold(chat: list[Received], every: list[Received]) -> None:
    generated = _one(chat, "append suite.event.usage.*.generated")
    folds = [span for span in every if (TRACE, generated.span_id) in span.links]
    assert "fold usage" in {span.name for span in folds}
    assert {span.kind for span in folds} == {"CONSUMER"}
    assert not any(span.trace_id == TRACE for span in folds)


def _check_bet(every: list[Received]) -> None:
    bet = _one(every, "bet likely")
    assert bet.parent_id == ""
    of_bet = [span for span in every if span.trace_id == bet.trace_id]
    assert path_of(_one(of_bet, "load likely"), of_bet) == ["bet likely", "load likely"]
    made = _one(of_bet, "append suite.event.prediction.*.made")
    settled = _one(every, "settle bet likely")
    assert settled.links == ((made.trace_id, made.span_id),)
    assert settled.attributes["suite.prediction.outcome"] == "hit"


CLIENT = """
import asyncio, sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
import suite

provider = TracerProvider(resource=Resource.create({"suite.process": "application"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)

async def main():
    async with suite.connect(data_dir=sys.argv[1]) as client:
        with trace.get_tracer("application").start_as_current_span("question"):
            await client.generate("tiny", "Once", max_tokens=1).finish()

asyncio.run(main())
provider.shutdown()
"""


async def test_a_client_records_with_the_provider_of_its_application(
    tmp_path: Path, collector: Collector
) -> None:
    async with traced_service(tmp_path, collector):
        await anyio.run_process(
            [sys.executable, "-c", CLIENT, str(tmp_path / "data")],
            env=_with(collector),
            stderr=subprocess.STDOUT,
        )
        every = await anyio.to_thread.run_sync(
            collector.wait, lambda spans: _has(spans, "question", "text_completion tiny")
        )
    question = _one(every, "question")
    generation = _one([span for span in every if span.trace_id == question.trace_id], "text_completion tiny")
    assert path_of(generation, every)[:3] == [
        "question",
        "send suite.action.generate_text",
        "process suite.action.generate_text",
    ]


def _with(collector: Collector) -> dict[str, str]:

    return os.environ | collector.environ


def _has(spans: list[Received], *names: str) -> bool:
    return set(names) <= {span.name for span in spans}
