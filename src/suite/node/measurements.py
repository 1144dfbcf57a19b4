"""What a node measures of its models: loads, waits, generations, and how models left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from suite.errors import LoadFailed, SuiteError
from suite.messages.actor import Finished, Step
from suite.messages.events import (
    InstanceCrashed,
    InstanceLoadFailed,
    InstanceUnloaded,
    PredictionSettled,
)
from suite.node.instance import Instance
from suite.node.instance_end import InstanceEnd
from suite.node.outcomes import End
from suite.telemetry import instruments
from suite.telemetry.instrument import Timed
from suite.telemetry.instruments import (
    ERROR,
    LLAMA_CPP,
    MODEL,
    OPERATION,
    OUTCOME,
    PHASE,
    PROVIDER,
    REASON,
    TOKEN_TYPE,
)

CacheOutcome: TypeAlias = Literal["hit", "loading", "miss"]


class LoadMeasurements:
    """Of models that come into memory and leave it."""

    def __init__(self) -> None:
        self._requests = instruments.CACHE_REQUESTS.create()
        self._duration = instruments.LOAD_DURATION.create()
        self._phases = instruments.LOAD_PHASE_DURATION.create()
        self._failures = instruments.LOAD_FAILURES.create()
        self._switches = instruments.SWITCHES.create()
        self._unloads = instruments.UNLOADS.create()
        self._age = instruments.UNLOAD_AGE.create()
        self._unused = instruments.UNLOAD_UNUSED.create()
        self._crashes = instruments.CRASHES.create()
        self._waits = instruments.WAIT_DURATION.create()
        self._refusals = instruments.REFUSALS.create()

    def requested(self, instance: Instance | None, model_id: str) -> None:
        """A request asks for a model, which has this instance."""
        outcome: CacheOutcome = "miss"
        if instance is not None:
            outcome = "hit" if instance.phase == "loaded" else "loading"
        self._requests.add(1, {MODEL: model_id, OUTCOME: outcome})

    def waited(self, model_id: str, end: End, seconds: float) -> None:
        """A request does not wait for memory any longer."""
        self._waits.record(seconds, {MODEL: model_id, OUTCOME: end})

    def refused(self, model_id: str, error: SuiteError) -> None:
        """A request for a model is refused."""
        self._refusals.add(1, {MODEL: model_id, ERROR: error.code})

    def began(self, model_id: str, *, waited_seconds: float, evicted: int) -> None:
        """A load is decided, for which its first request has waited, and so many models leave."""
        self._phases.record(waited_seconds, {MODEL: model_id, PHASE: "wait"})
        # What has not happened yet is 0, not missing: otherwise Prometheus does not see the first one.
        self._failures.add(0, {MODEL: model_id, ERROR: LoadFailed.code})
        for reason in ("unknown", "out_of_memory"):
            self._crashes.add(0, {MODEL: model_id, REASON: reason})
        self._unloads.add(0, {MODEL: model_id, REASON: "evicted"})
        self._switches.add(0, {MODEL: model_id})
        if evicted:
            self._switches.add(1, {MODEL: model_id})

    def loaded(self, instance: Instance, now: float) -> None:
        """A load is over."""
        model_id = instance.model.model_id
        self._duration.record(now - instance.started, {MODEL: model_id})
        for phase, seconds in instance.load_trace.seconds(now).items():
            self._phases.record(seconds, {MODEL: model_id, PHASE: phase})

    def ended(self, instance: Instance, fact: InstanceEnd, now: float) -> None:
        """An instance is over."""
        match fact:
            case InstanceLoadFailed(model_id=model_id, code=code):
                self._failures.add(1, {MODEL: model_id, ERROR: code})
            case InstanceCrashed(model_id=model_id, reason=reason):
                self._crashes.add(1, {MODEL: model_id, REASON: reason or "unknown"})
            case InstanceUnloaded(model_id=model_id, reason=reason):
                self._unloads.add(1, {MODEL: model_id, REASON: reason})
                if instance.ready_at is not None:
                    self._age.record(now - instance.ready_at, {REASON: reason})
                if instance.unused_seconds is not None:
                    self._unused.record(instance.unused_seconds, {REASON: reason})


class GenerationMeasurements:
    """Of what models' processes report."""

    def __init__(self) -> None:
        self._duration = instruments.SERVER_REQUEST_DURATION.create()
        self._first_token = instruments.SERVER_TIME_TO_FIRST_TOKEN.create()
        self._per_token = instruments.SERVER_TIME_PER_OUTPUT_TOKEN.create()
        self._queue = instruments.GENERATION_QUEUE.create()
        self._tokens = instruments.GENERATION_TOKENS.create()
        self._ended = instruments.GENERATIONS.create()
        self._step_seconds = instruments.STEP_DURATION.create()
        self._step_tokens = instruments.STEP_TOKENS.create()
        self._step_sequences = instruments.STEP_SEQUENCES.create()
        self._step_waiting = instruments.STEP_WAITING.create()
        self._step_threads = instruments.STEP_THREADS.create()

    def finished(self, model_id: str, report: Finished) -> None:
        """A generation has ended."""
        attributes = generation_attributes(report.operation, model_id, report.error)
        waited = report.waited_ms / 1000
        self._duration.record(waited + report.seconds, attributes)
        self._ended.add(1, {MODEL: model_id, OUTCOME: report.outcome})
        for kind, count in _tokens(report).items():
            self._tokens.add(count, {MODEL: model_id, TOKEN_TYPE: kind})
        times = report.timings
        if times is None:
            return
        self._queue.record(times.queue_ms / 1000, {MODEL: model_id})
        if report.error:
            return
        if times.time_to_first_token_ms is not None:
            self._first_token.record(waited + times.time_to_first_token_ms / 1000, attributes)
        if times.tokens_per_second:
            self._per_token.record(1 / times.tokens_per_second, attributes)

    def pooling(self, operation: str, model_id: str) -> Timed:
        """Measure how long the block takes to make vectors (``embed``) or scores (``rank``)."""
        name = "embeddings" if operation == "embed" else operation  # as spans have it (`actors.tracing`)
        return Timed(self._duration, generation_attributes(name, model_id, ""))

    def stepped(self, model_id: str, steps: Iterable[Step]) -> None:
        """The engine has made steps."""
        attributes = {MODEL: model_id}
        for step in steps:
            self._step_seconds.record(step.seconds, attributes)
            self._step_tokens.record(step.tokens, attributes)
            self._step_sequences.record(step.sequences, attributes)
            self._step_waiting.record(step.waiting, attributes)
            if step.threads is not None:
                self._step_threads.record(step.threads, attributes)


class BetMeasurements:
    """Of bets on what is used next."""

    def __init__(self) -> None:
        self._bets = instruments.BETS.create()
        self._wasted = instruments.BET_WASTE.create()
        self._saved = instruments.BET_SAVINGS.create()
        self._wasted.add(0)
        self._saved.add(0)
        self._bets.add(0, {OUTCOME: "hit", REASON: "used"})
        self._bets.add(0, {OUTCOME: "waste", REASON: "not_used"})

    def settled(self, bet: PredictionSettled) -> None:
        """It is known what a bet was worth, and the log has it."""
        self._bets.add(1, {OUTCOME: bet.outcome, REASON: bet.reason})
        if bet.outcome == "waste":
            self._wasted.add(bet.byte_seconds)
        else:
            self._saved.add(bet.saved_seconds)


def _tokens(report: Finished) -> dict[str, int]:
    """The tokens of a generation, by their kind; of drafts only where there were some."""
    counts = {
        "input": report.prompt_tokens,
        "reused": report.reused_tokens,
        "output": report.completion_tokens,
    }
    drafts = {"drafted": report.drafted_tokens, "accepted": report.accepted_tokens}
    return {**counts, **drafts} if report.drafted_tokens else counts


def generation_attributes(operation: str, model_id: str, error: str) -> dict[str, str]:
    """What the conventions want to know of a generation. `error`: the code of its error; empty: none."""
    attributes = {OPERATION: operation, PROVIDER: LLAMA_CPP, MODEL: model_id}
    return {**attributes, ERROR: error} if error else attributes
