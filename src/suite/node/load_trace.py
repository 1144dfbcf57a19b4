"""The spans of one load: its phases, one after the other, in the trace of the request that caused it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from opentelemetry.context import Context

from suite import telemetry
from suite.node.load_phases import LoadPhase


class LoadTrace:
    """Traces one load. When tracing is off it only knows the trace of its request."""

    def __init__(self, model_id: str, *, asked_ns: int) -> None:
        """`asked_ns`: when it was asked for, in nanoseconds since 1970."""
        self._load = telemetry.begin(f"load {model_id}", {"suite.model.id": model_id}, began_ns=asked_ns)
        self._name: LoadPhase = "wait"
        self._phase = self._begin("wait", began_ns=asked_ns)

    @property
    def context(self) -> Context:
        """What belongs to the load continues this."""
        return self._load.context

    @property
    def phase_context(self) -> Context:
        """What belongs to the phase that it is in continues this."""
        return self._phase.context

    def enter(self, phase: LoadPhase) -> None:
        """Begin the next phase, which ends the one before it."""
        if phase != self._name:
            self._phase.end()
            self._name, self._phase = phase, self._begin(phase)

    def end(self, error: Exception | None = None) -> None:
        """End the load, as a failed one if there is an error. Only the first call counts."""
        self._phase.end(error)
        self._load.end(error)

    def waited_for(self) -> AbstractContextManager[None]:
        """The span of a request that waits for this load; none if it is the request that caused it."""
        load, waiting = telemetry.ids_of(self._load.traceparent), telemetry.trace_ids()
        if load is None or (waiting is not None and waiting.trace_id == load.trace_id):
            return nullcontext()
        return telemetry.span("wait for load", links=[self._load.traceparent])

    def _begin(self, phase: LoadPhase, *, began_ns: int | None = None) -> telemetry.OpenSpan:
        return telemetry.begin(phase.replace("_", " "), within=self._load.context, began_ns=began_ns)
