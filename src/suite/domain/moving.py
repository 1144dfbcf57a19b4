"""Whether a conversation is moved to the node that goes on with it, or read again there (ADR 61)."""

from __future__ import annotations

from typing import Final

LATENCY_SECONDS: Final = 0.03
"""How long it takes to ask for a conversation and to take it over, however small it is."""
UNMEASURED_TOKENS_A_SECOND: Final = 500.0
"""How fast a prompt is thought to be read where none has been yet: faster than most are without a GPU."""


def moving_seconds(size: int, *, bytes_per_second: float) -> float:
    """How long a state of so many bytes takes into the object store and out of it."""
    return LATENCY_SECONDS + 2 * size / bytes_per_second


def is_worth_moving(size: int, *, reading_seconds: float, bytes_per_second: float) -> bool:
    """Whether a state is there sooner than its tokens are read."""
    return moving_seconds(size, bytes_per_second=bytes_per_second) < reading_seconds


def patience_seconds(tokens: int, *, reading_seconds: float | None) -> float:
    """How long a conversation is waited for before its prompt, of so many tokens, is read instead."""
    return tokens / UNMEASURED_TOKENS_A_SECOND if reading_seconds is None else reading_seconds


class StoreSpeed:
    """How many bytes a second go into the object store, or come out of it, as measured lately."""

    _WEIGHT: Final = 0.3
    _LEAST_BYTES: Final = 1 << 20

    def __init__(self) -> None:
        self.bytes_per_second = 100e6
        """Before anything was measured: what NATS on a small machine takes (150 to 300 MB/s)."""

    def note(self, size: int, seconds: float) -> None:
        """Take account of one object. Small ones say little."""
        if size >= self._LEAST_BYTES and seconds > 0:
            self.bytes_per_second += self._WEIGHT * (size / seconds - self.bytes_per_second)
