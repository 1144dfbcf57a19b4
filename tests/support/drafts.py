"""A drafter that knows what an engine's fake backend says next, and is sometimes wrong about it."""

from __future__ import annotations

from collections.abc import Sequence

from suite.engine.payoff import Guess, Outlook, Payoff
from suite.engine.scheduler import Run
from support.backend import END, WORDS, computed, successor

MOST = 15


class KnowingDrafter:
    """`wrong_every`: so many guesses are right, then one is not."""

    def __init__(self, wrong_every: int) -> None:
        self._wrong_every = wrong_every
        self._guesses = 0
        self.caught_up = True
        self.known: set[Run] = set()
        """The answers that were asked about and have not ended."""

    def outlook(self, run: Run) -> Outlook:
        self.known.add(run)
        return Outlook(MOST, agreed=0)

    def draft(self, runs: Sequence[Run], counts: Sequence[int]) -> Sequence[Sequence[int]]:
        return [self._guessed(run, count) for run, count in zip(runs, counts, strict=True)]

    def _guessed(self, run: Run, count: int) -> list[int]:
        assert run.slot is not None
        tokens = [*run.slot.tokens, *run.pending]
        for _ in range(count):
            right = successor(computed(tokens, run.adapters), run.generation.request.sampling.seed)
            self._guesses += 1
            tokens.append(right if self._guesses % self._wrong_every else (right + 1) % WORDS)
        return tokens[len(tokens) - count :]

    def observe(self, run: Run, token: int) -> Guess | None:
        """What is learned from it does not matter: `Eager` does not ask."""
        return Guess(0, token != END) if run in self.known else None

    def end(self, run: Run) -> None:
        self.known.discard(run)

    def clear(self) -> None: ...


class Eager(Payoff):
    """Thinks that drafts always pay."""

    def length(self, outlooks: Sequence[Outlook], most: int) -> int:
        lengths = (3, 2, 1)
        fitting = (each for each in lengths if sum(min(each, one.available) for one in outlooks) <= most)
        return next(fitting, 0)
