"""A collector for tests: takes spans over OTLP, HTTP or gRPC, and decodes them."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

SECONDS = 30.0


class Received(NamedTuple):
    """A span as it was sent."""

    trace_id: str
    span_id: str
    parent_id: str
    """Empty: it has none."""
    name: str
    kind: str
    """Such as `PRODUCER`."""
    start_ns: int
    end_ns: int
    is_error: bool
    status_message: str
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    """Trace and span of each."""
    resource: dict[str, Any]
    scope: tuple[str, str]
    """Name and version."""
    schema_url: str

    @property
    def process(self) -> str:
        return str(self.resource["suite.process"])


class Collector:
    """Where it listens, and what has come."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.endpoint = ""
        self.spans: list[Received] = []
        self.exports = 0
        """How many requests have come over gRPC."""
        self.status = 200
        """What it answers over HTTP."""
        self._arrived = threading.Condition()

    @property
    def environ(self) -> dict[str, str]:
        """The variables by which a process sends to it, soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def take(self, request: trace_service_pb2.ExportTraceServiceRequest) -> None:
        with self._arrived:
            self.spans += _spans(request)
            self._arrived.notify_all()

    def trace(self, trace_id: str) -> list[Received]:
        """What has come of a trace, in the order in which it began."""
        with self._arrived:
            found = [span for span in self.spans if span.trace_id == trace_id]
        return sorted(found, key=lambda span: span.start_ns)

    def wait(self, found: Callable[[list[Received]], bool]) -> list[Received]:
        """Wait until the spans that have come are what is looked for; all of them."""
        end = time.monotonic() + SECONDS
        with self._arrived:
            while not found(self.spans):
                left = end - time.monotonic()
                assert left > 0, sorted({(span.process, span.name) for span in self.spans})
                self._arrived.wait(left)
            return list(self.spans)


def path_of(span: Received, spans: Iterable[Received]) -> list[str]:
    """The names of the spans from the first of the trace to this one."""
    by_id = {each.span_id: each for each in spans}
    path = [span.name]
    while (parent := by_id.get(span.parent_id)) is not None:
        span = parent
        path.append(span.name)
    return path[::-1]


@contextmanager
def otlp_over_http() -> Iterator[Collector]:
    """A collector on a free port, over HTTP with protobuf."""
    collector = Collector("http/protobuf")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                collector.take(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            self.send_response(collector.status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def otlp_over_grpc() -> Iterator[Collector]:
    """A collector on a free port, over gRPC."""
    collector = Collector("grpc")

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - as gRPC calls it
            del context
            collector.exports += 1
            collector.take(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - as gRPC calls it
            del request, context
            collector.exports += 1
            return metrics_service_pb2.ExportMetricsServiceResponse()

    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)  # type: ignore[no-untyped-call]
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)  # type: ignore[no-untyped-call]
        collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield collector
        finally:
            server.stop(None).wait()


def _spans(request: trace_service_pb2.ExportTraceServiceRequest) -> Iterator[Received]:
    for of_resource in request.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            scope = (of_scope.scope.name, of_scope.scope.version)
            for span in of_scope.spans:
                yield _received(span, resource, scope, of_scope.schema_url)


def _received(
    span: trace_pb2.Span, resource: dict[str, Any], scope: tuple[str, str], schema_url: str
) -> Received:
    return Received(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        status_message=span.status.message,
        attributes=_attributes(span.attributes),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        resource=resource,
        scope=scope,
        schema_url=schema_url,
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    if value.HasField("array_value"):
        return [_value(each) for each in value.array_value.values]
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)
