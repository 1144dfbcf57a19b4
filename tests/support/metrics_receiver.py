"""A collector that takes metrics over OTLP/HTTP, and keeps what it was told last."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TypeAlias

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

Process: TypeAlias = str


class MetricsReceiver:
    """What each process has sent last."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.metrics: dict[Process, dict[str, Metric]] = {}
        """By the attribute ``suite.process``, and by name."""
        self.resources: dict[Process, Mapping[str, str]] = {}
        self.paths: set[str] = set()

    def take(self, path: str, body: bytes) -> None:
        self.paths.add(path)
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            about = {each.key: each.value.string_value for each in resource.resource.attributes}
            process = about["suite.process"]
            self.resources[process] = about
            self.metrics.setdefault(process, {}).update(
                {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
            )


@contextmanager
def metrics_receiver() -> Iterator[MetricsReceiver]:
    """A collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.take(self.path, body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = MetricsReceiver(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield receiver
        server.shutdown()
        thread.join()
