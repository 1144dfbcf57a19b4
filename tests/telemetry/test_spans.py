"""Spans of one process: what they say of errors, what goes along, and that `off` records nothing."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.metrics import NoOpMeter

from suite import telemetry
from suite.errors import InvalidConfiguration, ModelNotFound
from suite.messages.actions.traces import KeptSpan
from suite.messages.tracing import TraceMode, TraceSettings
from suite.telemetry.collector import protocol
from suite.telemetry.measuring import meter
from suite.telemetry.span_store import SpanStore
from support.ports import free_port

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PLENTY = 1 << 20


@contextmanager
def recording(
    directory: Path, *, content: bool = False, mode: TraceMode = "local", ratio: float = 1.0
) -> Iterator[None]:
    """Record into a store, which has all spans when the block has ended."""
    settings = TraceSettings(
        mode=mode, content=content, ratio=ratio, store=str(directory), store_bytes=PLENTY
    )
    with telemetry.tracing(settings, node="box", process="node"):
        yield


def kept(directory: Path) -> list[KeptSpan]:
    store = SpanStore(directory, PLENTY)
    return [span for first in store.traces() for span in store.trace(first.trace_id)[0]]


@pytest.mark.parametrize("content", [False, True])
def test_a_failed_span_has_the_code_and_its_text_only_with_content(tmp_path: Path, content: bool) -> None:
    with recording(tmp_path, content=content), pytest.raises(ModelNotFound), telemetry.span("work"):
        raise ModelNotFound("there is no Swordfish")
    (span,) = kept(tmp_path)
    assert (span.name, span.error) == ("work", "model_not_found")
    assert ("Swordfish" in span.error_text) is content


@pytest.mark.parametrize("content", [False, True])
def test_less_is_kept_of_what_is_not_sampled_if_it_has_texts(tmp_path: Path, content: bool) -> None:
    with (
        recording(tmp_path, content=content, ratio=0.0),
        pytest.raises(ModelNotFound),
        telemetry.span("work"),
    ):
        for _ in range(99):
            with telemetry.span("part"):
                pass
        raise ModelNotFound("there is no Swordfish")
    assert len(kept(tmp_path)) == (8 if content else 100)


def test_the_last_spans_are_kept_while_the_collector_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with recording(tmp_path, mode="otlp"):
        breaker = telemetry.recording.breaker
        assert breaker is not None
        breaker.failed("it is away")
        for number in range(100):
            with telemetry.span(f"work {number}"):
                pass
    assert len(kept(tmp_path)) == 100


def test_the_end_does_not_wait_for_a_disk_that_others_keep_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.telemetry.span_store.LOCK_SECONDS", 60.0)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        with recording(tmp_path), telemetry.span("work"):
            pass
        assert time.monotonic() - began < 20  # instead of all the time that the SDK would wait


def test_a_span_that_is_ended_elsewhere_belongs_to_where_it_was_begun(tmp_path: Path) -> None:
    with recording(tmp_path):
        with telemetry.span("request"):
            load = telemetry.begin("load", {"suite.model.id": "tiny"}, began_ns=1_000)
        with telemetry.within(load.context), telemetry.span("append"):
            pass
        load.end(ModelNotFound("gone"))
        load.end()  # only the first counts
    spans = {span.name: span for span in kept(tmp_path)}
    assert spans["load"].parent_id == spans["request"].span_id
    assert spans["append"].parent_id == spans["load"].span_id
    assert spans["load"].start_ns == 1_000
    assert spans["load"].error == "model_not_found"
    assert spans["load"].attributes == {"suite.model.id": "tiny", "error.type": "model_not_found"}


def test_when_it_is_off_a_callers_trace_goes_along_and_nothing_is_recorded() -> None:
    assert telemetry.trace_ids() is None
    with telemetry.span("work", headers={"traceparent": TRACEPARENT}):
        assert telemetry.traceparent() == TRACEPARENT
        with telemetry.span("inner"):
            assert telemetry.trace_ids() == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
        assert telemetry.begin("load").traceparent == TRACEPARENT
    assert telemetry.traceparent() is None


@pytest.mark.parametrize(("flags", "is_sampled"), [("00", False), ("01", True), ("02", False), ("03", True)])
def test_a_trace_is_sampled_by_one_of_its_flags(flags: str, is_sampled: bool) -> None:
    assert telemetry.is_sampled(f"{TRACEPARENT[:-2]}{flags}") is is_sampled


@pytest.mark.parametrize(
    "bad",
    ["", "00-1", TRACEPARENT.upper(), TRACEPARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32)],
)
def test_a_traceparent_that_is_none_begins_no_trace(bad: str) -> None:
    with telemetry.span("work", headers={"traceparent": bad}):
        assert telemetry.traceparent() is None


def test_the_protocol_is_as_the_standard_variables_say() -> None:
    assert protocol("traces", {}) == "http/protobuf"
    assert protocol("traces", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}) == "grpc"
    of_one = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    assert (protocol("traces", of_one), protocol("metrics", of_one)) == ("http/protobuf", "grpc")
    with pytest.raises(InvalidConfiguration, match="OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'"):
        protocol("traces", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})


def test_traces_and_metrics_are_switched_on_apart(tmp_path: Path) -> None:
    with recording(tmp_path), telemetry.span("work"):
        assert isinstance(meter(), NoOpMeter)
    with telemetry.measuring("off", node="box", process="node", exposed=True), telemetry.span("work"):
        assert not isinstance(meter(), NoOpMeter)
        assert telemetry.traceparent() is None
