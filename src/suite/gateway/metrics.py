"""Metrics for Prometheus: of this gateway, and of the nodes behind it."""

from __future__ import annotations

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from suite.messages.actions.generation import Usage
from suite.messages.actions.status import GetStatsReply

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """What is counted of the requests to one gateway."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self.running = Gauge("suite_gateway_requests_running", "Requests being answered.", registry=registry)
        self._requests = Counter(
            "suite_gateway_requests", "Requests answered.", ("endpoint", "status"), registry=registry
        )
        self._seconds = Histogram(
            "suite_gateway_request_seconds",
            "From the head of a request to the end of its answer.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._first_byte = Histogram(
            "suite_gateway_first_byte_seconds",
            "From the head of a request to the first byte of its answer.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "suite_gateway_tokens", "Tokens of generations.", ("model", "kind"), registry=registry
        )
        self._node = {
            name: Gauge(f"suite_node_{name}", text, ("node",), registry=registry)
            for name, text in _OF_NODE.items()
        }

    def count(self, endpoint: str, status: int, *, seconds: float, first_byte_seconds: float | None) -> None:
        """Count a request that is over. Of one without an answer, the status is 499."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)
        if first_byte_seconds is not None:
            self._first_byte.labels(endpoint).observe(first_byte_seconds)

    def count_tokens(self, model: str, usage: Usage) -> None:
        """Count the tokens of a generation. ``model`` is the id of one that there is."""
        self._tokens.labels(model, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(model, "cached").inc(usage.reused_tokens)
        self._tokens.labels(model, "completion").inc(usage.completion_tokens)

    def exposition(self, stats: GetStatsReply | None) -> bytes:
        """All metrics as Prometheus reads them. ``stats`` are those of the nodes; None: nobody answers."""
        for name, gauge in self._node.items():
            gauge.clear()
            for each in () if stats is None else stats.node_stats or (stats,):
                gauge.labels(each.node).set(getattr(each, name))
        return generate_latest(self._registry)


_OF_NODE: Final = {
    "models_tracked": "Models of the catalogue.",
    "models_loaded": "Models in memory.",
    "generations_running": "Generations that run or wait in loaded models.",
    "memory_limit_bytes": "What all loaded models together may have of RAM.",
    "memory_reserved_bytes": "What the loaded models count for in RAM.",
    "loads": "Loads since the node's start.",
    "crashes": "Crashes of models' processes since the node's start.",
}
