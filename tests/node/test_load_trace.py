"""A load: phases that follow each other, their spans, its end, and those who wait for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from suite import telemetry
from suite.errors import LoadFailed
from suite.messages.actions.traces import KeptSpan, LinkedSpan
from suite.messages.tracing import TraceSettings
from suite.node.load_trace import LoadPhase, LoadTrace
from suite.telemetry.span_store import SpanStore

PLENTY = 1 << 20


def traced(directory: Path) -> dict[str, KeptSpan]:
    """What was kept, by name."""
    store = SpanStore(directory, PLENTY)
    return {span.name: span for first in store.traces() for span in store.trace(first.trace_id)[0]}


def test_a_load_has_its_phases_one_after_the_other_and_fails_in_the_one_that_it_is_in(tmp_path: Path) -> None:
    settings = TraceSettings(mode="local", store=str(tmp_path), store_bytes=PLENTY)
    with telemetry.tracing(settings, node="box", process="node"):
        with telemetry.span("request"):
            load = LoadTrace("tiny", asked_ns=time.time_ns())
        for phase in ("reserve", "spawn", "map", "map", "map"):
            load.enter(phase, 0.0)
        load.end(LoadFailed("it cannot be read"))
        load.end()
    spans = traced(tmp_path)
    load_span = spans["load tiny"]
    assert load_span.parent_id == spans["request"].span_id
    phases = [span for span in spans.values() if span.parent_id == load_span.span_id]
    assert [span.name for span in sorted(phases, key=lambda span: span.start_ns)] == [
        "wait",
        "reserve",
        "spawn",
        "map",
    ]
    assert [span.name for span in spans.values() if span.error] == ["map", "load tiny"]
    assert load_span.error == "load_failed"


def test_a_request_that_waits_for_the_load_of_another_is_linked_to_it(tmp_path: Path) -> None:
    settings = TraceSettings(mode="local", store=str(tmp_path), store_bytes=PLENTY)
    with telemetry.tracing(settings, node="box", process="node"):
        with telemetry.span("request"):
            load = LoadTrace("tiny", asked_ns=time.time_ns())
            with load.waited_for():  # it is its own: there is nothing to say
                pass
        with telemetry.span("other request"), load.waited_for():
            pass
        load.end()
    spans = traced(tmp_path)
    waited, load_span = spans["wait for load"], spans["load tiny"]
    assert waited.parent_id == spans["other request"].span_id
    assert waited.links == (LinkedSpan(trace_id=load_span.trace_id, span_id=load_span.span_id),)


def load_in(*phases: tuple[LoadPhase, float]) -> LoadTrace:
    load = LoadTrace("tiny", asked_ns=time.time_ns())
    for phase, now in phases:
        load.enter(phase, now)
    return load


def test_each_phase_ends_with_the_next() -> None:
    load = load_in(
        *(("reserve", 10.0), ("evict", 10.5), ("inspect", 11.0)),
        *(("spawn", 11.5), ("map", 12.0), ("warm_up", 15.0)),
    )
    assert load.seconds(16.0) == {
        "reserve": 0.5,
        "evict": 0.5,
        "inspect": 0.5,
        "spawn": 0.5,
        "map": 3.0,
        "warm_up": 1.0,
    }


def test_a_phase_begins_once_and_what_did_not_begin_takes_no_time() -> None:
    load = load_in(("reserve", 0.0), ("map", 1.0), ("map", 2.0))
    assert load.seconds(4.0) == {"reserve": 1.0, "map": 3.0}
    assert sum(load.seconds(4.0).values()) == pytest.approx(4.0)
