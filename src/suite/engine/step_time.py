"""Estimates how long a step takes, from the steps before it, so that a step can be given a limit in seconds.

A step takes a time for each token of an answer and a time for each token of a prompt. The latter grows with
the tokens before it, so it is kept for ranges of positions, each twice as long as the one before. What was
never measured is taken from the nearest range that was, on the safe side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

_FIRST_RANGE = 256
"""Positions in the first range of positions."""
_WEIGHT = 0.4
"""How far one step moves an estimate towards what it took."""
_OUTLIER = 2.0
"""A step counts as at most this many times longer or shorter than it was estimated."""
_LEAST_SECONDS = 1e-7
"""A token never takes less: a clock may stand still."""


class Piece(NamedTuple):
    """The tokens of one prompt in a step."""

    position: int
    tokens: int


class StepWork(NamedTuple):
    """What is decoded in a step: a token for each of some answers, and pieces of prompts."""

    answers: int
    pieces: Sequence[Piece]


class StepTime:
    """How long steps of one model take at the moment; it follows when more or fewer cores compute them."""

    def __init__(self) -> None:
        self._answer: float | None = None
        self._prompt: dict[int, float] = {}

    def answers(self, count: int) -> float:
        """Seconds that a step with one token each of so many answers takes."""
        return count * (self._answer or 0.0)

    def prompts(self, pieces: Iterable[Piece]) -> float:
        """Seconds that these pieces add to a step."""
        return sum(piece.tokens * self._per_token(_range(piece.position)) for piece in pieces)

    def tokens_within(self, seconds: float, position: int) -> int:
        """How many tokens of a prompt can be decoded in this time, from a position on."""
        return int(min(seconds / self._per_token(_range(position)), 1e9))

    def learn(self, work: StepWork, seconds: float) -> None:
        """Take account of how long a step took."""
        answers, pieces = work
        if not pieces:
            self._answer = _moved(self._answer, seconds / answers)
            return
        seconds -= self.answers(answers)
        tokens = sum(piece.tokens for piece in pieces)
        factor = seconds / self.prompts(pieces)
        for number in {_range(piece.position) for piece in pieces}:
            known = self._prompt.get(number)
            measured = seconds / tokens if known is None else known * factor
            self._prompt[number] = _moved(known, measured)

    def _per_token(self, number: int) -> float:
        """Seconds for each token of a prompt in a range of positions."""
        below = max((known for known in self._prompt if known <= number), default=None)
        if below is not None:
            return self._prompt[below] * 2.0 ** (number - below)
        if self._prompt:
            return self._prompt[min(self._prompt)]
        return self._answer or _LEAST_SECONDS


def _range(position: int) -> int:
    """The number of the range that a position is in."""
    return (position // _FIRST_RANGE).bit_length()


def _moved(known: float | None, measured: float) -> float:
    if known is None:
        return max(measured, _LEAST_SECONDS)
    limited = min(max(measured, known / _OUTLIER), known * _OUTLIER)
    return max(known + _WEIGHT * (limited - known), _LEAST_SECONDS)
