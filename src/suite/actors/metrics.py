"""The usage and timings of generations, for replies and events, and the engine's steps, for the node."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence

import anyio

from suite.actors.pipe import NodePipe
from suite.engine.engine import StepStats
from suite.engine.generation import Generation
from suite.errors import RETRY_AFTER_MS, Overloaded
from suite.messages.actions.generation import Timings, Usage
from suite.messages.actor import Step, Stepped

_SMOOTHING = 0.2
"""The weight of the latest duration in an exponential moving average."""
_REPORT_SECONDS = 1.0
_STEPS_A_REPORT = 256
"""So that a report stays far below what the node takes in one piece."""
_MOST_STEPS = 16_384
"""More than any engine makes in a second: beyond it the oldest are not told."""


def usage(choices: Sequence[Generation]) -> Usage:
    """The token counts of a generation so far. Its prompt counts once, however many choices it has."""
    return Usage(
        prompt_tokens=choices[0].prompt_tokens,
        reused_tokens=choices[0].reused_tokens,
        completion_tokens=sum(choice.completion_tokens for choice in choices),
        reasoning_tokens=sum(choice.reasoning_tokens for choice in choices),
        drafted_tokens=sum(choice.drafted_tokens for choice in choices),
        accepted_tokens=sum(choice.accepted_tokens for choice in choices),
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


class StepReports:
    """Collects the steps of the engine, and tells the node of them once a second."""

    def __init__(self, pipe: NodePipe) -> None:
        self._pipe = pipe
        self._steps: deque[Step] = deque(maxlen=_MOST_STEPS)

    def __call__(self, step: StepStats) -> None:
        """Take note of a step, in the engine's thread."""
        self._steps.append(Step(*step))

    async def run(self) -> None:
        """Tell of them until cancelled, of the last ones too."""
        try:
            while True:
                await anyio.sleep(_REPORT_SECONDS)
                self._tell()
        finally:
            self._tell()

    def _tell(self) -> None:
        while self._steps:
            self._pipe.report(Stepped(steps=tuple(self._taken())))

    def _taken(self) -> Iterator[Step]:
        for _ in range(min(len(self._steps), _STEPS_A_REPORT)):
            yield self._steps.popleft()
