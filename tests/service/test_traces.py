"""What a collector gets over OTLP: one trace of a streamed chat over the gateway, of its load, of a bet."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

import suite
from suite.client import Client
from suite.errors import ActorCrashed
from suite.messages.actions.traces import CONTENT, GetTraceReply, KeptSpan
from suite.telemetry.span_store import SpanStore
from suite.version import __version__
from support.command import Command
from support.gateway import RunningGateway, beside_a_node
from support.models import CHAT_TEMPLATE, tiny_model
from support.otlp import Collector, Received, otlp_over_http, path_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
SECRET = "Swordfish"
SECONDS = 30.0
WHOLE = (
    "process suite.action.generate_text",
    "hand over suite.actor",
    "process suite.actor",
    "text_completion tiny",
    "append suite.event.usage",
    "fold usage",
)
"""The spans of a generation: those of each process are kept when it ends them, a little later."""
CONFIG = """
enable_predictive_loading = true
prediction_interval_seconds = 0.1
"""


class Traced(NamedTuple):
    """A service with a gateway, and the collector of its spans."""

    gateway: RunningGateway
    collector: Collector

    @property
    def data_dir(self) -> Path:
        return self.gateway.data_dir


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """Of the models `tiny` and `likely`, on whose use the service bets."""
    directory = tmp_path_factory.mktemp("traced")
    models, config = directory / "models", directory / "suite.toml"
    models.mkdir()
    config.write_text(CONFIG)
    for name in ("tiny", "likely"):
        tiny_model(models / f"{name}.gguf", chat_template=CHAT_TEMPLATE)
    options = ("--trace", "otlp", "--config", str(config))
    with (
        otlp_over_http() as collector,
        beside_a_node(models, directory / "data", *options, environ=collector.environ) as gateway,
    ):
        yield Traced(gateway, collector)


async def test_a_streamed_chat_is_one_trace_with_its_load_from_the_client_to_the_reply(
    traced: Traced,
) -> None:
    await anyio.to_thread.run_sync(_chat, traced.gateway)
    chat = await anyio.to_thread.run_sync(_whole_chat, traced.collector)
    _check_chat(chat)
    _check_load(chat)
    _check_processes(chat)
    generated = _one(chat, "append suite.event.usage.*.generated")
    every = await anyio.to_thread.run_sync(
        traced.collector.wait, lambda spans: any(_is_fold_of(generated, span) for span in spans)
    )
    folds = [span for span in every if _is_fold_of(generated, span)]
    assert {span.kind for span in folds} == {"CONSUMER"}
    assert not any(span.trace_id == TRACE for span in folds)
    assert not any(SECRET in str(span) for span in every)
    with anyio.fail_after(SECONDS):
        while {span.process for span in _kept(traced.data_dir)} != {"gateway", "node", "model tiny"}:
            await anyio.sleep(0.1)  # spans come into the store a little later


async def test_a_trace_is_drawn_from_the_log_and_the_spans_that_are_kept(traced: Traced) -> None:
    command = Command(traced.data_dir)
    async with suite.connect(data_dir=traced.data_dir) as client:
        reply = await client.generate("tiny", SECRET, max_tokens=2).finish()
    with anyio.fail_after(SECONDS):
        while not (await command.run("trace", reply.generation_id)).stdout:
            await anyio.sleep(0.1)  # spans come into the store a little later
    trace_id = (await command.document("trace", reply.generation_id))["trace_id"]
    with anyio.fail_after(SECONDS):
        while not _is_whole(lines := await command.output("trace", trace_id)):
            await anyio.sleep(0.1)  # each process keeps its own
    for name in (
        "process suite.action.generate_text ",
        "└─ hand over suite.actor.*.*.generate ",
        "   └─ process suite.actor.*.*.generate ",
        "      ├─ text_completion tiny ",
        "      │  └─ append suite.event.usage.*.generated ",
    ):
        assert f"\n{name}" in lines, lines
    assert f"event {reply.seq}" in lines
    assert trace_id in await command.output("trace", trace_id[:10])
    of_event = await command.document("trace", str(reply.seq))
    assert of_event["trace_id"] == trace_id
    assert "text_completion tiny" in {span["name"] for span in of_event["spans"]}
    listed = await command.output("trace", "--limit", "1000")
    assert trace_id in listed
    assert "fold usage" not in listed
    assert "trace_not_found" in await command.refusal("trace", "f" * 32)


async def test_a_trace_is_told_to_others_without_what_was_asked_and_answered(traced: Traced) -> None:
    async with suite.connect(data_dir=traced.data_dir) as client:
        reply = await client.generate("tiny", "Once", max_tokens=2).finish()
        with anyio.fail_after(SECONDS):
            while not _is_told(found := await client.get_trace(reply.generation_id)):
                await anyio.sleep(0.1)  # spans come into the store a little later
        trace_id = found.trace_id
        assert trace_id is not None
        span = KeptSpan(
            trace_id=trace_id,
            span_id="f" * 16,
            name="chat tiny",
            kind="internal",
            process="node",
            start_ns=1,
            end_ns=2,
            error="failed",
            error_text=SECRET,
            attributes=dict.fromkeys((*CONTENT, "gen_ai.request.model"), SECRET),
        )
        SpanStore(traced.data_dir / "traces", 1 << 30).append([span])
        told = await client.get_trace(trace_id)
        (own,) = [each for each in told.spans if each.span_id == span.span_id]
        assert (own.error, own.error_text) == ("failed", "")
        assert own.attributes == {"gen_ai.request.model": SECRET}
        listed = (await client.list_traces(limit=1000)).traces
        assert trace_id in {each.trace_id for each in listed}
        assert "fold usage" not in {each.name for each in listed}
    query = f"/ui/trace?id={trace_id}&seq={reply.seq}"
    page = (await anyio.to_thread.run_sync(traced.gateway.get, query)).document
    assert page["trace_id"] == trace_id
    assert {each["name"] for each in page["spans"]} >= {"chat tiny", "text_completion tiny"}
    assert reply.seq in {each["seq"] for each in page["events"]}
    of_event = await anyio.to_thread.run_sync(traced.gateway.get, f"/ui/trace?id={reply.seq}")
    assert of_event.document["trace_id"] == trace_id


def _is_whole(lines: str) -> bool:
    return all(name in lines for name in WHOLE)


def _is_told(found: GetTraceReply) -> bool:
    return found.trace_id is not None and "text_completion tiny" in {each.name for each in found.spans}


async def test_a_bet_has_its_load_and_its_settlement_is_linked_to_it(traced: Traced) -> None:
    async with suite.connect(data_dir=traced.data_dir) as client:
        await client.record_usage("likely")
        with anyio.fail_after(SECONDS):
            while not await _is_loaded(client, "likely"):
                await anyio.sleep(0.05)
        await client.generate("likely", "Once", max_tokens=1).finish()
    every = await anyio.to_thread.run_sync(
        traced.collector.wait, lambda spans: _has(spans, "bet likely", "settle bet likely")
    )
    bet = _one(every, "bet likely")
    assert bet.parent_id == ""
    of_bet = [span for span in every if span.trace_id == bet.trace_id]
    assert path_of(_one(of_bet, "load likely"), of_bet) == ["bet likely", "load likely"]
    made = _one(of_bet, "append suite.event.prediction.*.made")
    settled = _one(every, "settle bet likely")
    assert settled.links == ((made.trace_id, made.span_id),)
    assert settled.attributes["suite.prediction.outcome"] == "hit"


async def test_a_generation_whose_process_dies_fails_in_its_trace(traced: Traced) -> None:
    async with suite.connect(data_dir=traced.data_dir) as client:
        async with client.generate("tiny", "Once", max_tokens=100_000) as generation:
            chunks = aiter(generation)
            await anext(chunks)
            model = (await client.get_model_status("tiny")).model
            assert model is not None and model.instance is not None and model.instance.pid is not None
            os.kill(model.instance.pid, signal.SIGKILL)
            with pytest.raises(ActorCrashed):
                async for _ in chunks:
                    pass
    every = await anyio.to_thread.run_sync(traced.collector.wait, lambda spans: any(_failed(spans)))
    (last_word,) = _failed(every)
    assert last_word.attributes["error.type"] == "actor_crashed"
    assert path_of(last_word, every) == [
        "process suite.action.generate_text",
        "hand over suite.actor.*.*.generate",
        "reply _INBOX",
    ]


def _failed(spans: list[Received]) -> list[Received]:
    return [span for span in spans if span.is_error and span.name == "reply _INBOX"]


async def test_a_client_records_with_the_provider_of_its_application(traced: Traced) -> None:
    environ = os.environ | traced.collector.environ
    await anyio.run_process([sys.executable, "-c", APPLICATION, str(traced.data_dir)], env=environ)
    every = await anyio.to_thread.run_sync(traced.collector.wait, lambda spans: any(_of_question(spans)))
    (path,) = _of_question(every)
    assert path[:3] == [
        "question",
        "send suite.action.generate_text",
        "process suite.action.generate_text",
    ]


APPLICATION = """
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
            and _has(spans, "process suite.actor.*.*.generate", "process suite.action.generate_text")
        )
    )
    return collector.trace(TRACE)


def _is_fold_of(appended: Received, span: Received) -> bool:
    return span.name.startswith("fold ") and (appended.trace_id, appended.span_id) in span.links


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
    for phase, following in itertools.pairwise(phases):
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


def _kept(data_dir: Path) -> list[KeptSpan]:
    """What is kept of the chat beside its node."""
    spans, _ = SpanStore(data_dir / "traces", 1 << 20).trace(TRACE)
    return spans


def _of_question(spans: list[Received]) -> list[list[str]]:
    """The whole path to each generation that an application has asked for."""
    paths = [path_of(span, spans) for span in spans if span.name == "text_completion tiny"]
    return [path for path in paths if path[0] == "question"]


def _has(spans: list[Received], *names: str) -> bool:
    return set(names) <= {span.name for span in spans}
