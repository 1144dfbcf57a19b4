"""What one generation took, in the words of replies and events."""

from __future__ import annotations

from suite.engine.generation import Generation
from suite.messages.actions import Timings, Usage


def usage(generation: Generation) -> Usage:
    """Its tokens so far."""
    return Usage(
        prompt_tokens=len(generation.order.prompt),
        reused_tokens=generation.reused_tokens,
        completion_tokens=generation.completion_tokens,
    )


def timings(generation: Generation, *, accepted: float, now: float) -> Timings:
    """Where its time went until now, from the acceptance on: in the queue, the prompt, the generation."""
    ended = generation.ended or now
    started = generation.started or ended
    first = generation.first_token or ended
    seconds, steps = ended - first, generation.completion_tokens - 1
    return Timings(
        queue_ms=_ms(started - accepted),
        prompt_ms=_ms(first - started),
        time_to_first_token_ms=_ms(first - accepted) if generation.first_token else None,
        generation_ms=_ms(seconds),
        tokens_per_second=round(steps / seconds, 2) if steps > 0 and seconds > 0 else None,
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
