"""Estimates how long a step takes, from the steps before it, so that a step can be given a limit in seconds.

A step takes a time for its answers, which has a large fixed part, so it is kept for each number of answers;
and a time for each token of a prompt, which grows with the tokens before it, so it is kept for ranges of
positions, each twice as long as the one before. What was never measured is taken from the nearest that was,
on the safe side, and the first step that has it gives it all of the time that is not explained otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_FIRST_RANGE = 256
"""Positions in the first range of positions."""
_WEIGHT = 0.4
"""How far one step moves an estimate towards what it took."""
_OUTLIER = 2.0
"""A step counts as at most this many times longer or shorter than it was estimated."""
_LEAST_SECONDS = 1e-7
"""Nothing ever takes less: a clock may stand still."""


class Piece(NamedTuple):
    """The tokens of one prompt in a step."""

    position: int
    tokens: int


class StepWork(NamedTuple):
    """What is decoded in a step: a token for each of some answers, drafts, and pieces of prompts."""

    answers: int
    pieces: Sequence[Piece]
    drafts: int = 0


class StepTime:
    """How long steps of one model take at the moment; it follows when more or fewer cores compute them."""

    def __init__(self) -> None:
        self._answers = _GrowingTime()
        self._token = _GrowingTime()

    @property
    def is_measured(self) -> bool:
        """Whether any step was learned from; until then nothing is thought to take any time."""
        return bool(self._answers) or bool(self._token)

    def answers(self, count: int) -> float:
        """Seconds that a step with one token each of so many answers takes."""
        return self._answers.at(count) if count and self._answers else 0.0

    def prompts(self, pieces: Iterable[Piece]) -> float:
        """Seconds that these pieces add to a step."""
        return sum(piece.tokens * self._per_token(_range(piece)) for piece in pieces)

    def reading(self, tokens: int) -> float | None:
        """Seconds that a prompt of so many tokens takes; None before any was measured."""
        if not self._token:
            return None
        starts = range(0, tokens, _FIRST_RANGE)
        return self.prompts(Piece(start, min(_FIRST_RANGE, tokens - start)) for start in starts)

    def tokens_within(self, seconds: float, position: int) -> int:
        """How many tokens of a prompt can be decoded in this time, from a position on."""
        return int(min(seconds / self._per_token(_range(Piece(position, 1))), 1e9))

    def learn(self, work: StepWork, seconds: float) -> None:
        """Take account of how long a step took."""
        answers, pieces = work.answers, work.pieces
        if not pieces:
            self._answers.put(answers, moved(self._answers.get(answers), seconds))
        elif answers and self._answers.get(answers) is None:
            # With nothing to compare, prompts take as long as answers.
            prompts = self.prompts(pieces) if self._token else seconds / 2
            if prompts < seconds or not self._token:
                self._answers.put(answers, self._answers.limited(answers, seconds - prompts))
            else:
                self._learn_prompts(pieces, seconds)
        elif all(self._token.get(_range(piece)) for piece in pieces):
            self._learn_speed(work, seconds)
        else:
            self._learn_prompts(pieces, seconds - self.answers(answers))

    def _learn_prompts(self, pieces: Sequence[Piece], seconds: float) -> None:
        """Give ranges that were never measured the time that the others do not explain."""
        unknown = [piece for piece in pieces if self._token.get(_range(piece)) is None]
        if not unknown:
            self._move_prompts(pieces, seconds / self.prompts(pieces))
            return
        rest = seconds - (self.prompts(pieces) - self.prompts(unknown))
        per_token = rest / self.prompts(unknown)
        measured = {_range(piece): per_token * self._per_token(_range(piece)) for piece in unknown}
        for number, each in measured.items():
            self._token.put(number, self._token.limited(number, each))

    def _learn_speed(self, work: StepWork, seconds: float) -> None:
        """Nothing says whether answers or prompts took longer than was thought: both did."""
        factor = seconds / (self.answers(work.answers) + self.prompts(work.pieces))
        if work.answers:
            self._answers.scale(moved(1.0, factor))
        self._move_prompts(work.pieces, factor)

    def _move_prompts(self, pieces: Sequence[Piece], factor: float) -> None:
        for number in {_range(piece) for piece in pieces}:
            known = self._per_token(number)
            self._token.put(number, moved(known, known * factor))

    def _per_token(self, number: int) -> float:
        """Seconds for each token of a prompt in a range of positions."""
        return self._token.at(number) if self._token else self.answers(1) or _LEAST_SECONDS


class _GrowingTime:
    """Seconds that grow with a number, and at most in proportion to it; some of them are known."""

    def __init__(self) -> None:
        self._known: dict[int, float] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def get(self, number: int) -> float | None:
        """What is known of this number itself."""
        return self._known.get(number)

    def at(self, number: int) -> float:
        """What is known of this number, or the most that it may be."""
        known = self._known.get(number)
        return self.limited(number, math.inf) if known is None else known

    def limited(self, number: int, seconds: float) -> float:
        """As near to `seconds` as the known numbers next to this one allow."""
        below = max((known for known in self._known if known < number), default=None)
        above = min((known for known in self._known if known > number), default=None)
        if above is not None:
            seconds = _between(self._known[above] * number / above, seconds, self._known[above])
        if below is not None:
            seconds = _between(self._known[below], seconds, self._known[below] * number / below)
        return max(seconds, _LEAST_SECONDS)

    def put(self, number: int, seconds: float) -> None:
        """Set what is known of a number; the others follow as far as they contradict it."""
        for other, known in self._known.items():
            in_proportion = seconds * other / number
            self._known[other] = _between(min(seconds, in_proportion), known, max(seconds, in_proportion))
        self._known[number] = max(seconds, _LEAST_SECONDS)

    def scale(self, factor: float) -> None:
        """Multiply all by a factor."""
        self._known = {number: max(known * factor, _LEAST_SECONDS) for number, known in self._known.items()}


def _range(piece: Piece) -> int:
    """The range of positions that a piece begins in: 1, 2, 4 and so on, as its positions are that far on."""
    return 1 << (piece.position // _FIRST_RANGE).bit_length()


def _between(least: float, value: float, most: float) -> float:
    return min(max(value, least), most)


def moved(known: float | None, measured: float) -> float:
    """An estimate after what was measured now: moved towards that, as far as one measurement is trusted."""
    if known is None:
        return max(measured, _LEAST_SECONDS)
    limited = _between(known / _OUTLIER, measured, known * _OUTLIER)
    return max(known + _WEIGHT * (limited - known), _LEAST_SECONDS)
