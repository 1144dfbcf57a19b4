"""The circuit breaker around a collector: what opens it, and that exporters heed it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NoReturn

import pytest
import requests
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.trace.export import SpanExportResult

from suite import telemetry
from suite.telemetry.collector import POLICY, Collector, SignalName
from support.otlp import otlp_over_grpc, otlp_over_http
from support.ports import free_port

Export = Callable[[], bool]


def export_over_grpc(collector: Collector, signal: SignalName) -> Export:
    """Makes an export, of nothing, and returns whether it was taken."""
    if signal == "traces":
        spans = collector.spans()
        return lambda: spans.export([]) is SpanExportResult.SUCCESS
    metrics = collector.metrics()
    return lambda: metrics.export(MetricsData(resource_metrics=[])) is MetricExportResult.SUCCESS


@pytest.mark.parametrize("signal", ["traces", "metrics"])
def test_while_its_breaker_is_open_nothing_is_sent_over_grpc(
    signal: SignalName, monkeypatch: pytest.MonkeyPatch
) -> None:
    with otlp_over_grpc() as receiver:
        for name, value in receiver.environ.items():
            monkeypatch.setenv(name, value)
        collector = Collector(signal, level=logging.DEBUG)
        export = export_over_grpc(collector, signal)
        assert export()
        collector.failed("it is full")
        assert not export()
        assert receiver.exports == 1


@pytest.mark.parametrize("signal", ["traces", "metrics"])
def test_one_that_cannot_be_reached_over_grpc_is_left_alone(
    signal: SignalName, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{endpoint}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    collector = Collector(signal, level=logging.DEBUG)
    assert not export_over_grpc(collector, signal)()
    assert collector.is_away
    assert collector.breaker.state.reason == f"{endpoint} does not take them over gRPC"


def test_spans_with_texts_fit_into_what_a_collector_takes_over_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = dict.fromkeys(("asked", "instructions", "answered"), "x" * telemetry.MOST_CONTENT_BYTES)
    with otlp_over_grpc() as receiver:
        for name, value in receiver.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")  # so many at once as may be
        with telemetry.tracing(
            telemetry.TraceSettings(mode="otlp", content=True), node="box", process="node"
        ):
            for _ in range(20):
                with telemetry.span("chat", texts):
                    pass
            receiver.wait(lambda spans: len(spans) >= 16)
            assert telemetry.recording.breaker is not None
            assert telemetry.recording.breaker.is_closed


@pytest.mark.parametrize("status", [400, 413])
def test_one_that_refuses_a_batch_is_sent_the_next_one_and_told_of_once(
    status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with otlp_over_http() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        collector = Collector("traces", level=logging.WARNING)
        spans = collector.spans()
        receiver.status = status
        assert [spans.export([]) for _ in range(2)] == [SpanExportResult.FAILURE] * 2
        receiver.status = 200
        assert spans.export([]) is SpanExportResult.SUCCESS
    assert not collector.is_away
    (record,) = caplog.records
    assert f"answers {status}" in record.getMessage()


def test_an_attempt_that_shows_nothing_does_not_keep_the_next_from_being_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    with otlp_over_http() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        collector = Collector("traces", level=logging.DEBUG, clock=lambda: now)
        spans = collector.spans()
        collector.failed("it is away")
        now += POLICY.longest_pause_seconds
        with monkeypatch.context() as patched:
            patched.setattr(requests.Session, "send", _fails)
            spans.export([])
        assert spans.export([]) is SpanExportResult.SUCCESS
    assert not collector.is_away


def _fails(*_: object, **__: object) -> NoReturn:
    raise UnicodeError("no name of a host")
