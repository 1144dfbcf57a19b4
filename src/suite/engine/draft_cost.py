"""How many times as long a step takes with drafts, as was measured by the number of answers and drafts in it.

What was measured is kept for ranges of the number of drafts. What a draft adds to a step takes about as long
beside few answers as beside many, so what is not known of a number of answers is taken from the nearest one.
Pure.
"""

from __future__ import annotations

from suite.engine.step_time import moved

_FIRST_COST = 0.25
"""What a draft is thought to take before any was measured, as a part of what an answer takes."""


class DraftCost:
    """What drafts have cost so far."""

    def __init__(self) -> None:
        self._alone: dict[int, float] = {}
        """Seconds of a step without drafts, by its answers."""
        self._factors: dict[int, dict[int, float]] = {}
        """How many times as long it takes with drafts, by the range of their number and then by its answers:
        with the most drafts of that range."""

        self.most_drafts = 0
        """The most drafts of a step that was measured."""

    def alone(self, answers: int) -> float | None:
        """Seconds of a step without drafts; None before one was measured."""
        return self._alone.get(answers)

    def learn(self, answers: int, drafts: int, seconds: float) -> None:
        """Take account of how long a step took, with so many drafts for all its answers together."""
        alone = self._alone.get(answers)
        if not drafts:
            self._alone[answers] = moved(alone, seconds)
        elif alone:
            self.most_drafts = max(self.most_drafts, drafts)
            number = drafts.bit_length()
            factor = 1 + (seconds / alone - 1) * _most(number) / drafts
            factors = self._factors.setdefault(number, {})
            factors[answers] = moved(factors.get(answers), factor)

    def factor(self, answers: int, drafts: int) -> float:
        """How many times as long a step takes with so many drafts as without.

        In proportion to the drafts, as was measured with about as many, else with fewer, else with more.
        """
        if not drafts:
            return 1.0
        if not self._factors:
            return 1 + _FIRST_COST * drafts / answers
        number = drafts.bit_length()
        nearest = min(self._factors, key=lambda each: (each > number, abs(each - number)))
        factors = self._factors[nearest]
        beside = min(factors, key=lambda each: (abs(each - answers), each))
        added = (factors[beside] - 1) * drafts / _most(nearest)
        return max(1.0, 1 + added * self._alone[beside] / self._alone[answers])


def _most(number: int) -> int:
    """The most drafts of a range: 1, 3, 7 and so on, as many as have so many binary digits."""
    return (1 << number) - 1
