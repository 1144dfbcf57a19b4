"""When to group: what single publishes and atomic batches cost on this server and this disk, as measured.

An atomic batch is synced once, but the server stages it in a directory of its own and removes that again.
Where removing files is slow (ext4 mounted with ``discard``: over a millisecond each) a batch costs as much
as forty single publishes, elsewhere as eight. So neither is right always, and a fixed limit is wrong
somewhere.
"""

from __future__ import annotations

from typing import Final

_WEIGHT: Final = 0.05
"""Of a new measurement in the running mean, once there are many."""
_ENOUGH: Final = 8
"""Measurements before a mean is believed."""
_SHARE: Final = 1 / 8
"""What a message costs within a batch, of what it costs alone."""
_GUESS: Final = 10.0
"""A batch costs this many single publishes, until it is measured."""
_FORGET: Final = 0.998
"""What is not chosen gets this much cheaper each time, so that it is tried again one day."""
_ABSURD_SECONDS: Final = 0.5
"""Longer measurements are of faults, not of costs."""


class GroupCommit:
    """Measured costs in seconds, and the choice that follows from them."""

    def __init__(self) -> None:
        self._single = _Mean()
        self._batch = _Mean()

    def prefers_batch(self, *, singles: int, several: int, messages: int) -> bool:
        """Whether one batch of all `messages` is faster than each for itself.

        ``singles`` are the appends of one event, ``several`` those of more, which are batches anyway.
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
        """While several were on their way, one was answered `seconds` after the one before."""
        self._single.add(seconds)

    def note_batch(self, seconds: float, *, messages: int) -> None:
        """A batch of `messages` was answered after `seconds`."""
        fixed = seconds - messages * self._single.value * _SHARE
        self._batch.add(max(fixed, seconds / 4))


class _Mean:
    """A running mean that starts as a plain one."""

    def __init__(self) -> None:
        self.value = 0.0
        self.count = 0

    def add(self, seconds: float) -> None:
        if seconds < _ABSURD_SECONDS:
            self.count += 1
            self.value += max(_WEIGHT, 1 / self.count) * (seconds - self.value)
