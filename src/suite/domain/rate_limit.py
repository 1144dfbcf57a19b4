"""How much may be used a minute: a token bucket, filled evenly, with a minute's worth at most.

What something costs may be known only afterwards, as with the tokens of an answer. So a bucket may owe: it
then lets nothing through until it is filled again, and in the long run no more than the limit is used.
"""

from __future__ import annotations

from typing import Final

MINUTE_SECONDS: Final = 60.0


class Bucket:
    """What is left of a limit. All times are those of one clock, in seconds."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at = now

    def remaining(self, now: float) -> int:
        """How much may be used at once, in whole units."""
        return max(0, int(self._filled(now) + _TINY))

    def take(self, amount: int, now: float) -> None:
        """Use so much, even if it is more than is left."""
        self._level = self._filled(now) - amount
        self._at = max(now, self._at)

    def seconds_until(self, amount: float, now: float) -> float:
        """How long it takes until at least so much is left; 0: it is. No amount is more than the limit."""
        lacking = min(amount, self.per_minute) - self._filled(now)
        return lacking * MINUTE_SECONDS / self.per_minute if lacking > _TINY else 0.0

    def _filled(self, now: float) -> float:
        gained = max(0.0, now - self._at) * self.per_minute / MINUTE_SECONDS
        return min(float(self.per_minute), self._level + gained)


_TINY: Final = 1e-6
"""So that sums of fractions that should be whole are."""
