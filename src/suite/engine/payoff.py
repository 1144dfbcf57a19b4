"""Decides how many tokens to draft in a step: as many as make answers faster, by what was measured.

A draft costs time whether it is right or not. How likely it is right is learned by how many tokens before it
were guessed rightly; how much longer a step takes with drafts, by the number of answers and drafts in it. On
a GPU, where a step mostly waits for memory, drafts cost little; on a CPU, or beside many answers, a lot.

A step has all answers, and takes longer for those without a draft, too. So what counts is the product of all
answers' speeds: that one is twice as fast is worth as much as another being half as fast (the proportional
fairness of Nash and Kelly). Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from suite.engine.step_time import moved

LENGTHS = (1, 3, 7, 15)
"""How many tokens may be drafted for an answer: with the token before them, llama.cpp's kernels are full."""
FIRST_PATIENCE = 32
LONGEST_PATIENCE = 1024
"""After so many steps that could have had drafts they are tried once, though they are not thought to pay."""
_TRIAL_STEPS = 32
"""A trial ends after so many steps of which none was measured, as when a draft model reads a long prompt."""

_MANY_AGREED = 32
"""After so many right guesses, one more makes no difference."""
_RANGES = 12
"""Ranges of the numbers of drafts: 1, 2 to 3, 4 to 7 and so on."""
_FIRST_COST = 0.25
"""What a draft is thought to take before any was measured, as a part of what an answer takes."""
_KNOWN_TRIALS = 128
"""Of about so many trials the share of those that were right is kept; older ones fade."""


class Outlook(NamedTuple):
    """What can be drafted for one answer."""

    available: int
    """So many tokens at most."""
    agreed: int
    """How many tokens before them were guessed rightly, one after the other."""


class Guess(NamedTuple):
    """What became of a guess."""

    agreed: int
    """How many before it were right, one after the other."""
    is_right: bool


class Acceptance:
    """How likely a guess is right, by how many guesses before it were right, one after the other."""

    def __init__(self) -> None:
        ranges = _MANY_AGREED.bit_length() + 1
        self._right = [0.0] * ranges
        self._all = [0.0] * ranges
        self._likely = self._estimated()

    def learn(self, guess: Guess) -> None:
        """Take account of a guess."""
        number = min(guess.agreed, _MANY_AGREED).bit_length()
        self._right[number] += guess.is_right
        self._all[number] += 1
        if self._all[number] > _KNOWN_TRIALS:
            self._right[number] /= 2
            self._all[number] /= 2
        self._likely = self._estimated()

    def of(self, agreed: int) -> float:
        """The probability that the next guess is right."""
        return self._likely[min(agreed, _MANY_AGREED).bit_length()]

    def tokens(self, outlook: Outlook) -> Sequence[float]:
        """How many tokens a step gives on average: one, and with each draft more those that are right."""
        tokens, likely = [1.0], 1.0
        for index in range(outlook.available):
            likely *= self.of(outlook.agreed + index)
            tokens.append(tokens[-1] + likely)
        return tokens

    def _estimated(self) -> Sequence[float]:
        """By the range of right guesses before: where little is known, as with fewer of them."""
        likely, estimated = 0.5, []
        for right, tried in zip(self._right, self._all, strict=True):
            likely = (right + likely) / (tried + 1)
            estimated.append(likely)
        return estimated


class Payoff:
    """What drafts have cost and brought so far."""

    def __init__(self, max_step_seconds: float = math.inf) -> None:
        """A step with drafts takes at most `max_step_seconds`, or twice as long as one without."""
        self.acceptance = Acceptance()
        self._max_step_seconds = max_step_seconds
        self._alone: dict[int, float] = {}
        """Seconds of a step without drafts, by its answers."""
        self._factors: dict[tuple[int, int], float] = {}
        """How many times as long it takes with drafts, by its answers and the range of their number: with the
        most drafts of that range."""
        self._skipped = 0
        """Steps without drafts that could have had some, since one had."""
        self._patience = FIRST_PATIENCE
        self._trials = 1

    def learn(self, answers: int, drafts: int, seconds: float) -> None:
        """Take account of how long a step took, with so many drafts for all its answers together."""
        if not drafts:
            self._alone[answers] = moved(self._alone.get(answers), seconds)
            return
        if self._skipped >= self._patience:
            self._end_trial()
        if alone := self._alone.get(answers):
            number = drafts.bit_length()
            factor = 1 + (seconds / alone - 1) * _most(number) / drafts
            self._factors[answers, number] = moved(self._factors.get((answers, number)), factor)

    def length(self, outlooks: Sequence[Outlook], most: int) -> int:
        """How many tokens to draft for each answer of a step, where they are available; 0: none.

        `most`: those of all answers together.
        """
        lengths = [length for length in LENGTHS if self._is_possible(outlooks, length, most)]
        if not lengths:
            return 0
        tokens = [self.acceptance.tokens(each) for each in outlooks]
        gains = {length: self._gain(tokens, length) for length in lengths}
        best = max(lengths, key=gains.__getitem__)
        if gains[best] > 0:
            self._skipped, self._patience = 0, FIRST_PATIENCE
            return best
        return self._trial(lengths)

    def _is_possible(self, outlooks: Sequence[Outlook], length: int, most: int) -> bool:
        """Whether there are drafts, and room and time for them; first it must be known how long none take."""
        answers, drafts = len(outlooks), _drafts(outlooks, length)
        alone = self._alone.get(answers)
        if alone is None or not 0 < drafts <= most:
            return False
        return alone * self._factor(answers, drafts) <= max(self._max_step_seconds, 2 * alone)

    def _gain(self, tokens: Sequence[Sequence[float]], length: int) -> float:
        """The logarithm of the factor by which the product of the answers' speeds grows.

        `tokens`: what a step gives of each answer with 0 drafts, 1, 2 and so on, as far as there are any.
        """
        drafts = [min(length, len(each) - 1) for each in tokens]
        factor = self._factor(len(tokens), sum(drafts))
        gained = (math.log(each[count]) for each, count in zip(tokens, drafts, strict=True))
        return sum(gained) - len(tokens) * math.log(factor)

    def _factor(self, answers: int, drafts: int) -> float:
        """In proportion to the drafts, as was measured with about as many."""
        number = drafts.bit_length()
        for known in (*range(number, 0, -1), *range(number + 1, number + _RANGES)):
            factor = self._factors.get((answers, known))
            if factor is not None:
                return max(1.0, 1 + (factor - 1) * drafts / _most(known))
        return 1 + _FIRST_COST * drafts / answers

    def _trial(self, lengths: Sequence[int]) -> int:
        """A length to try now and then: what a step takes changes, with the threads for it and its place."""
        self._skipped += 1
        if self._skipped < self._patience:
            return 0
        if self._skipped >= self._patience + _TRIAL_STEPS:
            self._end_trial()
            return 0
        return lengths[self._trials % len(lengths)]

    def _end_trial(self) -> None:
        self._skipped, self._patience = 0, min(2 * self._patience, LONGEST_PATIENCE)
        self._trials += 1


def _most(number: int) -> int:
    """The most drafts of a range: 1, 3, 7 and so on, as many as have so many binary digits."""
    return (1 << number) - 1


def _drafts(outlooks: Sequence[Outlook], length: int) -> int:
    return sum(min(each.available, length) for each in outlooks)
