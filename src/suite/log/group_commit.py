"""Decides when to group appends, by the measured cost of single publishes and atomic batches on this server.

The server syncs an atomic batch once, but stages it in a directory of its own, which it then deletes. Where
deleting files is slow (ext4 mounted with ``discard``: over a millisecond each), a batch costs as much as
forty single publishes; elsewhere it costs as much as eight. So neither is always better, and any fixed limit
is wrong on some machine.
"""

from __future__ import annotations

from typing import Final

_WEIGHT: Final = 0.05
"""The weight of a new measurement in the running mean, once there are many."""
_ENOUGH: Final = 8
"""How many measurements a mean needs before it is used."""
_SHARE: Final = 1 / 8
"""The cost of a message within a batch, as a fraction of its cost alone."""
_GUESS: Final = 10.0
"""The assumed cost of a batch, in single publishes, until one is measured."""
_FORGET: Final = 0.998
"""The estimated cost of the choice not taken is multiplied by this, so that it is tried again some day."""
_ABSURD_SECONDS: Final = 0.5
"""Longer measurements are ignored: they show faults, not costs."""


class GroupCommit:
    """Measures costs, in seconds, and chooses between single publishes and a batch."""

    def __init__(self) -> None:
        self._single = _Mean()
        self._batch = _Mean()

    def prefers_batch(self, *, singles: int, several: int, messages: int) -> bool:
        """Whether one batch of all `messages` is faster than sending each append by itself.

        ``singles`` is the number of appends with one event, ``several`` of those with more, which are
        batches anyway.
        """
        if singles + several < 2:
            return False
        if several > 1:
            return True
        if self._single.count < _ENOUGH:
            return False
        single = self._single.value
        batch = self._batch.value if self._batch.count else _GUESS * single
        if singles * single + several * batch > batch + messages * single * _SHARE:
            self._single.value *= _FORGET
            return True
        if messages > _GUESS:
            self._batch.value *= _FORGET
        return False

    def note_single(self, seconds: float) -> None:
        """Record that, with several publishes in flight, one was answered `seconds` after the one before."""
        self._single.add(seconds)

    def note_batch(self, seconds: float, *, messages: int) -> None:
        """Record that a batch of `messages` was answered after `seconds`."""
        fixed = seconds - messages * self._single.value * _SHARE
        self._batch.add(max(fixed, seconds / 4))


class _Mean:
    """An exponential running mean that starts as a plain mean."""

    def __init__(self) -> None:
        self.value = 0.0
        self.count = 0

    def add(self, seconds: float) -> None:
        if seconds < _ABSURD_SECONDS:
            self.count += 1
            self.value += max(_WEIGHT, 1 / self.count) * (seconds - self.value)
