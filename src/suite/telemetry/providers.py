"""Where spans go: to a collector, to stderr, or nowhere.

OpenTelemetry has one provider of spans for each process.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace

from suite.extras import require

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from suite.telemetry.collector import Collector

SHUTDOWN_SECONDS = 0.7
"""How long the last export of spans, or of metrics, may take; what is not exported by then is lost."""
_POLL_SECONDS = 0.01


class Recording:
    """What this process records with."""

    def __init__(self) -> None:
        self.is_on = False
        self.tracer: trace.Tracer = trace.get_tracer("suite")


recording = Recording()


@contextmanager
def tracing(mode: str, *, node: str, process: str, tell_outages: bool = True) -> Iterator[None]:
    """Record spans during the block.

    ``mode`` is ``off``, ``console`` (lines on stderr) or ``otlp``. The standard ``OTEL_EXPORTER_OTLP_*``
    variables configure the OTLP exporter. ``tell_outages`` says whether this process is the one that warns
    when the collector cannot be reached. The end of the block waits up to `SHUTDOWN_SECONDS` for the last
    export, but not for a collector that is known to be down. Raises NotInstalled if the packages for
    OTLP are not installed.
    """
    if mode == "off":
        yield
        return
    from opentelemetry.sdk.trace import TracerProvider  # imported here to save start-up time with `off`
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    collector = None if mode == "console" else _collector(tell_outages)
    provider = TracerProvider(resource=resource(node=node, process=process), shutdown_on_exit=False)
    provider.add_span_processor(
        SimpleSpanProcessor(_console_spans()) if collector is None else BatchSpanProcessor(collector.spans())
    )
    recording.tracer, recording.is_on = provider.get_tracer("suite"), True
    try:
        yield
    finally:
        recording.is_on = False
        is_away = collector.is_away if collector is not None else lambda: False
        finish([provider.shutdown], unless=is_away)


def resource(*, node: str, process: str) -> Resource:
    """What all spans and metrics of this process say of it."""
    from opentelemetry.sdk.resources import Resource

    return Resource.create({"service.name": "suite", "service.instance.id": node, "suite.process": process})


def finish(shutdowns: Sequence[Callable[[], None]], *, unless: Callable[[], bool]) -> None:
    """Run the shutdowns in parallel. Wait up to `SHUTDOWN_SECONDS`, or until ``unless`` returns True."""
    threads = [threading.Thread(target=each, name="telemetry-end", daemon=True) for each in shutdowns]
    for thread in threads:
        thread.start()
    end = time.monotonic() + SHUTDOWN_SECONDS
    while time.monotonic() < end and not unless() and any(thread.is_alive() for thread in threads):
        time.sleep(_POLL_SECONDS)


def _collector(tell_outages: bool) -> Collector:
    require("otlp", "trace = otlp")
    from suite.telemetry.collector import Collector

    return Collector(level=logging.WARNING if tell_outages else logging.DEBUG)


def _console_spans() -> SpanExporter:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    return ConsoleSpanExporter(out=sys.stderr, formatter=_line)


def _line(span: ReadableSpan) -> str:
    return str(span.to_json(indent=None)).replace("\n", " ") + "\n"
