"""Begins and ends the recording of spans in a process, and says where they go.

OpenTelemetry has one provider of spans for each process. Metrics have switches of their own: see
`suite.telemetry.measuring`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from opentelemetry import trace

from suite.extras import require
from suite.messages.tracing import TraceSettings
from suite.telemetry.ending import finish
from suite.telemetry.resource import resource
from suite.version import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.util.types import Attributes

    from suite.circuit_breaker import CircuitBreaker
    from suite.telemetry.collector import Collector, SignalName
    from suite.telemetry.sampling import FailuresAndSlow

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.45.0"
"""Which version of the conventions the names of attributes are from."""
_SCOPE: Final = "suite"
"""Who instruments."""
_STORE_MILLISECONDS: Final = 500
"""How soon a span that has ended is in the store."""
MOST_CONTENT_BYTES: Final = 65_536
"""The most of one attribute with texts, of which a span has up to three."""
_MOST_AT_ONCE: Final = 16
"""How many spans are exported at once if they have texts: 3 MiB at most, as gRPC takes 4 MiB."""
_MOST_WAITING: Final = 256
"""How many wait for that if they have texts: 48 MiB at most."""
_MOST_KEPT: Final = {"most_parts": 64, "most_spans": 8}
"""What is kept of traces that are not exported, if they have texts: 96 MiB, were there some in every span."""


class SpanStarter(Protocol):
    """What spans are begun with: that of this library, or of the application that it is used in."""

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[trace.Link] | None = (),
        start_time: int | None = None,
    ) -> trace.Span:
        """Begin a span, as `opentelemetry.trace.Tracer` has it."""


class Recording:
    """What this process records with."""

    def __init__(self) -> None:
        self.is_on = False
        self.content = False
        """Whether spans have texts."""
        self.tracer: SpanStarter = trace.NoOpTracer()
        self.breaker: CircuitBreaker | None = None
        """The one around the collector of spans."""

    def adopt_application(self) -> None:
        """Record with the tracer provider of the application that this library is used in, if it has one."""
        provider = trace.get_tracer_provider()
        if not self.is_on and not isinstance(provider, trace.ProxyTracerProvider):
            self.tracer = provider.get_tracer(_SCOPE, __version__, schema_url=SCHEMA_URL)
            self.is_on = True


recording = Recording()


@contextmanager
def tracing(
    settings: TraceSettings,
    *,
    node: str,
    process: str,
    place: str | None = None,
    tell_outages: bool = True,
) -> Iterator[None]:
    """Record spans during the block, as those of a `suite.telemetry.resource`.

    The standard ``OTEL_EXPORTER_OTLP_*`` variables configure the OTLP exporter. ``tell_outages`` says whether
    this process is the one that warns when the collector cannot be reached. The end of the block waits up to
    `suite.telemetry.ending.SHUTDOWN_SECONDS` for the disk and as long for the last export, but not for a
    collector that is known to be down. Raises NotInstalled if the packages for OTLP are not installed.
    """
    if settings.mode == "off" or _is_disabled():
        yield
        return
    collector = None
    if settings.mode == "otlp":
        collector = collector_of("traces", "trace = otlp", node=node, tell_outages=tell_outages)
    kept = list(_keeping(settings))
    exporting = [*kept, *_exporting(settings, collector)]
    processor = _choosing(settings, exporting)
    recording.tracer = _tracer(settings, processor, resource(node=node, process=process, place=place))
    recording.content, recording.is_on = settings.content, True
    recording.breaker = None if collector is None else collector.breaker
    try:
        yield
    finally:
        recording.is_on = recording.content = False
        recording.breaker = None
        finish(lambda: _shut_down(kept), None)  # a disk waits for no collector
        finish(processor.shutdown, collector)


def _shut_down(processors: Iterable[SpanProcessor]) -> None:
    for each in processors:
        each.shutdown()


def _is_disabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the standard variable for that has nothing recorded, whatever is set."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _choosing(settings: TraceSettings, then: Sequence[SpanProcessor]) -> FailuresAndSlow:
    """Who chooses the spans that are exported."""
    # Imported here to save start-up time with `off`.
    from suite.telemetry.sampling import FailuresAndSlow

    kept = _MOST_KEPT if settings.content else {}
    return FailuresAndSlow(then, slow_seconds=settings.slow_seconds, **kept)


def _tracer(settings: TraceSettings, processor: FailuresAndSlow, source: Resource) -> SpanStarter:
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from suite.telemetry.sampling import FollowingSampler
    from suite.telemetry.tracer import Tracer

    scope = InstrumentationScope(_SCOPE, __version__, SCHEMA_URL)
    return Tracer(FollowingSampler(settings.ratio), processor, source, scope)


def _exporting(settings: TraceSettings, collector: Collector | None) -> Iterator[SpanProcessor]:
    """Who has spans leave this process for a collector or a terminal."""
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    from suite.telemetry.exporters import console

    if collector is not None:
        yield _batching(collector.spans(), settings)
    if settings.mode == "console":
        yield SimpleSpanProcessor(console())


def _keeping(settings: TraceSettings) -> Iterator[SpanProcessor]:
    """Who keeps spans on this machine."""
    from suite.telemetry.exporters import StoreExporter
    from suite.telemetry.span_store import SpanStore

    if settings.store is not None:
        store = SpanStore(Path(settings.store), settings.store_bytes)
        yield _batching(StoreExporter(store), settings, milliseconds=_STORE_MILLISECONDS)


def _batching(
    exporter: SpanExporter, settings: TraceSettings, *, milliseconds: float | None = None
) -> SpanProcessor:
    """Who exports many spans at once, so soon after they have ended; None: as ``OTEL_BSP_*`` say."""
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    waiting, at_once = (_MOST_WAITING, _MOST_AT_ONCE) if settings.content else (None, None)
    return BatchSpanProcessor(exporter, waiting, milliseconds, at_once)


def collector_of(signal: SignalName, setting: str, *, node: str, tell_outages: bool = True) -> Collector:
    """The collector that a setting asks for. Raises NotInstalled without the packages for OTLP."""
    require("otlp", setting)
    from suite.telemetry.collector import Collector

    return Collector(signal, node=node, level=logging.WARNING if tell_outages else logging.DEBUG)
