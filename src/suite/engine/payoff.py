"""Decides how many tokens to draft in a step: as many as make answers faster, by what was measured.

A draft costs time whether it is right or not. How likely it is right is learned by how many tokens before it
were guessed rightly; how much longer a step takes with drafts, by the number of answers and drafts in it
(`draft_cost`). On a GPU, where a step mostly waits for memory, drafts cost little; on a CPU, or beside many
answers, a lot. What is not thought to be best is tried now and then, for a small part of the time.

A step has all answers, and takes longer for those without a draft, too. So what counts is the product of all
answers' speeds: that one is twice as fast is worth as much as another being half as fast (the proportional
fairness of Nash and Kelly). Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from suite.engine.draft_cost import DraftCost

LENGTHS = (1, 3, 7, 15)
"""How many tokens may be drafted for an answer: with the token before them, llama.cpp's kernels are full."""
FIRST_PATIENCE = 64
LONGEST_PATIENCE = 512
"""After a trial there is none for so many times as long as it took; trials take that part of the time."""
_TRIAL_STEPS = 32
"""A trial ends after so many steps of which none was measured, as when a draft model reads a long prompt; it
counts as so many times as long as a step without drafts."""
_GROWTH = 4
"""A step has at most so many times as many drafts as any that was measured."""
_SURPRISE = 0.75
"""A trial goes on while its steps take less than this part of what they were thought to take."""

_MANY_AGREED = 32
"""After so many right guesses, one more makes no difference."""
_DOUBT = 3
"""So many guesses must be seen before they count as much as what was thought before."""
_KNOWN_GUESSES = 128
"""Of about so many guesses the share of those that were right is kept; older ones fade."""


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
        if self._all[number] > _KNOWN_GUESSES:
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
            likely = (right + _DOUBT * likely) / (tried + _DOUBT)
            estimated.append(likely)
        return estimated


class Trials:
    """When something else is tried than what is thought best: what a step takes changes, with the threads for
    it and its place. They take a small part of the time, and less and less of it."""

    def __init__(self) -> None:
        self._patience = FIRST_PATIENCE
        self._steps = 0
        """Steps since the last trial that could have had drafts."""
        self._wait = float(FIRST_PATIENCE)
        """After so many the next one begins."""
        self._tried: int | None = None
        """The length that is tried in this step."""
        self._number = 0

    def length(self, best: int, lengths: Sequence[int]) -> int:
        """How many tokens to draft in this step: `best`, or another of these lengths or none at all."""
        self._steps += 1
        self._tried = None
        if self._steps >= self._wait + _TRIAL_STEPS:
            self._end(_TRIAL_STEPS)
        elif self._steps >= self._wait:
            self._tried = self._another(best, lengths)
        return best if self._tried is None else self._tried

    def learn(self, drafts: int, factor: float, *, thought: float) -> None:
        """Note how many times as long as one without drafts a step took, and was thought to take.

        A trial goes on while it takes much less than was thought: then there is more to learn.
        """
        if self._tried is not None and bool(self._tried) == bool(drafts) and factor >= _SURPRISE * thought:
            self._end(max(1.0, factor))

    def _another(self, best: int, lengths: Sequence[int]) -> int:
        """The next in turn; none at all before each, as what others cost is told by what none costs."""
        others = [each for each in lengths if each != best]
        if best:
            others = [each for other in others for each in (0, other)] or [0]
        return others[self._number % len(others)]

    def _end(self, factor: float) -> None:
        self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        self._steps, self._wait, self._tried = 0, self._patience * factor, None
        self._number += 1


class Payoff:
    """What drafts have cost and brought so far."""

    def __init__(self, max_step_seconds: float = math.inf) -> None:
        """A step with drafts takes at most `max_step_seconds`, or twice as long as one without."""
        self.acceptance = Acceptance()
        self._max_step_seconds = max_step_seconds
        self._cost = DraftCost()
        self._trials = Trials()

    def learn(self, answers: int, drafts: int, seconds: float) -> None:
        """Take account of how long a step took, with so many drafts for all its answers together."""
        if alone := self._cost.alone(answers):
            thought = self._cost.factor(answers, drafts)
            self._trials.learn(drafts, seconds / alone, thought=thought)
        self._cost.learn(answers, drafts, seconds)

    def length(self, outlooks: Sequence[Outlook], most: int) -> int:
        """How many tokens to draft for each answer of a step, where they are available; 0: none.

        `most`: those of all answers together.
        """
        lengths = [length for length in LENGTHS if self._is_possible(outlooks, length, most)]
        if not lengths:
            return 0
        tokens = [self.acceptance.tokens(each) for each in outlooks]
        gains = {0: 0.0, **{length: self._gain(tokens, length) for length in lengths}}
        return self._trials.length(max(gains, key=gains.__getitem__), lengths)

    def _is_possible(self, outlooks: Sequence[Outlook], length: int, most: int) -> bool:
        """Whether there are drafts, and room and time for them; first it must be known how long none take.

        What many take is only guessed from what few took, so there are at most `_GROWTH` times as many as
        were measured, or one for each answer.
        """
        answers = len(outlooks)
        drafts = sum(min(each.available, length) for each in outlooks)
        alone = self._cost.alone(answers)
        if alone is None or not 0 < drafts <= min(most, max(answers, _GROWTH * self._cost.most_drafts)):
            return False
        return alone * self._cost.factor(answers, drafts) <= max(self._max_step_seconds, 2 * alone)

    def _gain(self, tokens: Sequence[Sequence[float]], length: int) -> float:
        """The logarithm of the factor by which the product of the answers' speeds grows.

        `tokens`: what a step gives of each answer with 0 drafts, 1, 2 and so on, as far as there are any.
        """
        drafts = [min(length, len(each) - 1) for each in tokens]
        factor = self._cost.factor(len(tokens), sum(drafts))
        gained = (math.log(each[count]) for each, count in zip(tokens, drafts, strict=True))
        return sum(gained) - len(tokens) * math.log(factor)
