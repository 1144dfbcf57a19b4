"""One trace over client, node and actor, into the log; nothing of what was said is in it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from suite.bus.connection import Connection
from support.models import tiny_model
from support.service import history, service_and_client

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
SECRET = "Swordfish"


async def test_one_trace_from_the_callers_header_to_the_event(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    request = {"model_id": "tiny", "prompt": SECRET, "max_tokens": 3}
    async with service_and_client(tmp_path, tmp_path / "data", "--trace", "console") as (service, client):
        async with Connection.open(service.connection_file().access, name="caller") as caller:
            await caller.request(
                "suite.action.generate_text",
                msgspec.json.encode(request),
                headers={"traceparent": TRACEPARENT},
                timeout=20,
            )
        traced = {event.type for event in await history(client) if TRACE in (event.traceparent or "")}
        await service.stop()
        written = service.errors.read_text()
    lines = [line for line in written.splitlines() if '"trace_id"' in line]
    spans = [json.loads(line[line.index("{") :]) for line in lines]  # an actor's come behind a log prefix
    ours = [span for span in spans if span["context"]["trace_id"] == f"0x{TRACE}"]
    names = {(span["resource"]["attributes"]["suite.process"], span["name"]) for span in ours}
    assert ("node", "process suite.action.generate_text") in names
    assert ("node", "reserve") in names
    assert ("node", "load tiny") in names
    assert ("node", "append suite.event.instance.*.*.load_started") in names
    assert ("node", "append suite.event.instance.*.*.loaded") in names
    assert ("model tiny", "text_completion tiny") in names
    assert ("model tiny", "append suite.event.usage.*.generated") in names
    assert traced == {
        "suite.instance.load_started.v1",
        "suite.instance.loaded.v1",
        "suite.usage.generated.v1",
    }
    assert SECRET not in written


async def test_a_callers_trace_reaches_the_event_with_tracing_off(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    request = {"model_id": "tiny", "prompt": "Once", "max_tokens": 3}
    async with service_and_client(tmp_path, tmp_path / "data") as (service, client):
        async with Connection.open(service.connection_file().access, name="caller") as caller:
            await caller.request(
                "suite.action.generate_text",
                msgspec.json.encode(request),
                headers={"traceparent": TRACEPARENT},
                timeout=20,
            )
        (event,) = await history(client, "usage")
        assert event.traceparent == TRACEPARENT
