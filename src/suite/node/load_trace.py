"""One load: its phases, one after the other, how long they took, and their spans."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final, Literal, TypeAlias

from opentelemetry.context import Context

from suite import telemetry

LoadPhase: TypeAlias = Literal["wait", "reserve", "evict", "inspect", "spawn", "map", "warm_up"]
"""`wait`: until it is its turn; `reserve`: until its start is in the log; `evict`: until those that leave for
it have left; `inspect`: what its files are, and how they are to be loaded; `spawn`: until its process begins
to load; `map`: until llama.cpp has the weights; `warm_up`: the rest."""

MEASURED: Final[tuple[LoadPhase, ...]] = ("reserve", "evict", "inspect", "spawn", "map", "warm_up")
"""Those of a load that is decided, in order."""


class LoadTrace:
    """Follows one load, in the trace of the request that caused it."""

    def __init__(self, model_id: str, *, asked_ns: int) -> None:
        """`asked_ns`: when it was asked for, in nanoseconds since 1970."""
        self._load = telemetry.begin(f"load {model_id}", {"suite.model.id": model_id}, began_ns=asked_ns)
        self._phase = self._begin("wait", began_ns=asked_ns)
        self._began: dict[LoadPhase, float] = {}

    @property
    def context(self) -> Context:
        """What belongs to the load continues this."""
        return self._load.context

    @property
    def phase_context(self) -> Context:
        """What belongs to the phase that it is in continues this."""
        return self._phase.context

    def enter(self, phase: LoadPhase, now: float) -> None:
        """Begin a phase, unless it has begun already, and end the one before it."""
        if phase not in self._began:
            self._phase.end()
            self._began[phase], self._phase = now, self._begin(phase)

    def seconds(self, now: float) -> dict[LoadPhase, float]:
        """How long each phase took that has begun, without the wait; the last one until now."""
        begun = [phase for phase in MEASURED if phase in self._began]
        ends = [*(self._began[phase] for phase in begun[1:]), now]
        return {phase: max(0.0, end - self._began[phase]) for phase, end in zip(begun, ends, strict=True)}

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
