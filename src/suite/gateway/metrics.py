"""Metrics for Prometheus: of this gateway, and of the nodes behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from prometheus_client import Gauge

from suite import telemetry
from suite.circuit_breaker import CircuitBreaker
from suite.messages.actions.generation import Usage
from suite.messages.actions.status import GetStatsReply
from suite.telemetry import instruments
from suite.telemetry.breaker_states import breaker_state
from suite.telemetry.exposition import Exposition
from suite.telemetry.instrument import Timed
from suite.telemetry.instruments import KEY, LLAMA_CPP, MODEL, OPERATION, PROVIDER, TOKEN_TYPE

_UNKNOWN: Final = "unknown"
"""Stands for the model of a generation that has failed: a client may ask for any name."""


class Metrics:
    """What is measured of the requests to one gateway."""

    def __init__(self, exposition: Exposition, breaker: CircuitBreaker) -> None:
        """`exposition`: what this process measures. `breaker`: the one around the service."""
        self._exposition = exposition
        self.running = instruments.GATEWAY_RUNNING.create()
        self._requests = instruments.GATEWAY_REQUESTS.create()
        self._seconds = instruments.GATEWAY_SECONDS.create()
        self._first_byte = instruments.GATEWAY_FIRST_BYTE.create()
        self._by_key = instruments.GATEWAY_KEY_REQUESTS.create()
        self._tokens = instruments.GATEWAY_TOKENS.create()
        self._duration = instruments.CLIENT_OPERATION_DURATION.create()
        self._usage = instruments.CLIENT_TOKEN_USAGE.create()
        instruments.BREAKER_STATE.observe(lambda: _breakers(breaker))
        self._node = {
            name: Gauge(f"suite_node_{name}", text, ("node",), registry=exposition.registry)
            for name, text in _OF_NODE.items()
        }

    def count(
        self,
        endpoint: str,
        status: int,
        *,
        key: str | None,
        seconds: float,
        first_byte_seconds: float | None,
    ) -> None:
        """Count a request that is over. Of one without an answer, the status is 499. `key`: its key's id."""
        self._requests.add(1, {"endpoint": endpoint, "status": str(status)})
        self._seconds.record(seconds, {"endpoint": endpoint})
        if first_byte_seconds is not None:
            self._first_byte.record(first_byte_seconds, {"endpoint": endpoint})
        if key is not None:
            self._by_key.add(1, {KEY: key, "status": str(status)})

    @contextmanager
    def generating(self, operation: str) -> Iterator[_Generating]:
        """Measure a generation of the service during the block."""
        attributes = {OPERATION: operation, PROVIDER: LLAMA_CPP, MODEL: _UNKNOWN}
        with Timed(self._duration, attributes):
            yield _Generating(self, attributes)

    def count_tokens(self, attributes: dict[str, str], usage: Usage) -> None:
        """Count the tokens of a generation."""
        self._usage.record(usage.prompt_tokens, {**attributes, TOKEN_TYPE: "input"})
        self._usage.record(usage.completion_tokens, {**attributes, TOKEN_TYPE: "output"})
        model = attributes[MODEL]
        self._tokens.add(usage.prompt_tokens, {"model": model, "kind": "prompt"})
        self._tokens.add(usage.reused_tokens, {"model": model, "kind": "cached"})
        self._tokens.add(usage.completion_tokens, {"model": model, "kind": "completion"})

    def exposition(self, stats: GetStatsReply | None) -> bytes:
        """All metrics as Prometheus reads them. ``stats`` are those of the nodes; None: nobody answers."""
        for name, gauge in self._node.items():
            gauge.clear()
            for each in () if stats is None else stats.node_stats or (stats,):
                gauge.labels(each.node).set(getattr(each, name))
        return self._exposition.text()


class _Generating:
    """A generation that is measured."""

    def __init__(self, metrics: Metrics, attributes: dict[str, str]) -> None:
        self._metrics = metrics
        self._attributes = attributes

    def answered(self, model_id: str, usage: Usage) -> None:
        """The service has answered, with a model that there is."""
        self._attributes[MODEL] = model_id
        self._metrics.count_tokens(self._attributes, usage)


def _breakers(service: CircuitBreaker) -> Iterator[tuple[float, Mapping[str, str]]]:
    """Those of this process."""
    for breaker in (service, *telemetry.circuit_breakers()):
        yield breaker_state(breaker.of.kind, breaker.of.name, breaker.position)


_OF_NODE: Final = {
    "models_tracked": "Models of the catalogue.",
    "models_loaded": "Models in memory.",
    "generations_running": "Generations that run or wait in loaded models.",
    "memory_limit_bytes": "What all loaded models together may have of RAM.",
    "memory_reserved_bytes": "What the loaded models count for in RAM.",
    "loads": "Loads since the node's start.",
    "crashes": "Crashes of models' processes since the node's start.",
}
