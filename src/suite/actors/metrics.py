"""The usage and timings of generations, for replies and events, and metrics of the engine's steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from suite import telemetry
from suite.engine.engine import StepStats
from suite.engine.generation import Generation
from suite.errors import RETRY_AFTER_MS, Overloaded
from suite.messages.actions.generation import Timings, Usage

_SMOOTHING = 0.2
"""The weight of the latest duration in an exponential moving average."""


def usage(choices: Sequence[Generation]) -> Usage:
    """The token counts of a generation so far. Its prompt counts once, however many choices it has."""
    return Usage(
        prompt_tokens=choices[0].prompt_tokens,
        reused_tokens=choices[0].reused_tokens,
        completion_tokens=sum(choice.completion_tokens for choice in choices),
        reasoning_tokens=sum(choice.reasoning_tokens for choice in choices),
    )


def timings(choices: Sequence[Generation], *, accepted: float, now: float) -> Timings:
    """The times of a generation since it was accepted: in the queue, for the prompt, for all choices."""
    ended = max(choice.ended_at or now for choice in choices)
    started = min((each.started_at for each in choices if each.started_at is not None), default=ended)
    tokens_at = [each.first_token_at for each in choices if each.first_token_at is not None]
    first = min(tokens_at, default=ended)
    seconds = ended - first
    steps = sum(max(choice.completion_tokens - 1, 0) for choice in choices)
    return Timings(
        queue_ms=_ms(started - accepted),
        prompt_ms=_ms(first - started),
        time_to_first_token_ms=_ms(first - accepted) if tokens_at else None,
        generation_ms=_ms(seconds),
        tokens_per_second=round(steps / seconds, 2) if steps > 0 and seconds > 0 else None,
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


class SlotTurnover:
    """Measures how long slots are used, to tell refused clients when to try again."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._seconds: float | None = None

    def freed(self, seconds: float) -> None:
        """Add the time that a slot was in use to the average."""
        if self._seconds is None:
            self._seconds = seconds
        else:
            self._seconds += _SMOOTHING * (seconds - self._seconds)

    def refusal(self, taken: str) -> Overloaded:
        """The error when no slot is free, with an estimate of when the next one will be.

        The estimate is at least a second, and a second before any slot was freed.
        """
        likely = 1000 * (self._seconds or 0.0) / self._slots
        retry_after_ms = max(RETRY_AFTER_MS, math.ceil(likely))
        return Overloaded(
            f"{taken}: try again in about {math.ceil(retry_after_ms / 1000)} s", retry_after_ms=retry_after_ms
        )


class StepMetrics:
    """Records the steps of one model's engine as OpenTelemetry histograms, `suite.engine.step.*`."""

    def __init__(self, model_id: str) -> None:
        meter = telemetry.meter()
        self._attributes = {"gen_ai.request.model": model_id}
        self._seconds = meter.create_histogram("suite.engine.step.duration", unit="s")
        self._tokens = meter.create_histogram("suite.engine.step.tokens", unit="{token}")
        self._sequences = meter.create_histogram("suite.engine.step.sequences", unit="{sequence}")
        self._waiting = meter.create_histogram("suite.engine.step.waiting", unit="{generation}")
        self._threads = meter.create_histogram("suite.engine.step.threads", unit="{thread}")

    def __call__(self, step: StepStats) -> None:
        """Record a step."""
        self._seconds.record(step.seconds, self._attributes)
        self._tokens.record(step.tokens, self._attributes)
        self._sequences.record(step.sequences, self._attributes)
        self._waiting.record(step.waiting, self._attributes)
        if step.threads is not None:
            self._threads.record(step.threads, self._attributes)
