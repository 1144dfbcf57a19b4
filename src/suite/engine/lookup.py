"""Drafts the next tokens of an answer from its own prompt and text: n-gram look-up, without a model.

Answers repeat what stands before them: names, code that is changed, passages that are quoted. Where the last
tokens stood before, what came after them there is a guess of what comes now (prompt lookup decoding).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from suite.engine.payoff import LENGTHS, Guess, Outlook
from suite.engine.pictures.tokens import text_ahead
from suite.engine.scheduler import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHORTEST_MATCH = 2
"""So many last tokens must have stood before: a single one says too little about what follows."""
LONGEST_MATCH = 32
"""How far back a match is followed to see how long it is."""
MATCHES_COMPARED = 16
"""The longest of so many latest matches is taken, and the latest of those."""


class Lookup:
    """The tokens of one generation, and the place in them from which the next ones are guessed."""

    def __init__(self, tokens: Sequence[int]) -> None:
        import numpy as np  # with the first answer, not before the load

        self._tokens: NDArray[np.int64] = np.array(tokens, np.int64)
        self._count = len(tokens)
        self._source = 0
        """Where the token stands that is guessed next; only if `agreed`."""
        self.agreed = 0
        """How many tokens before that place are the last ones of the text too; 0: nothing is guessed."""
        self._search()

    def draft(self, count: int) -> list[int]:
        """So many tokens that are guessed next; none where nothing is.

        A text that ends in a repetition goes on with it. What stands for a picture is never guessed.
        """
        if not self.agreed:
            return []
        following = self._tokens[self._source : min(self._source + count, self._count)].tolist()
        repeated = [following[index % len(following)] for index in range(count)]
        return repeated[: text_ahead(repeated)]

    def append(self, token: int) -> Guess | None:
        """Add the token that came next; None if nothing was guessed."""
        guess = Guess(self.agreed, token == int(self._tokens[self._source])) if self.agreed else None
        self._put(token)
        if guess is not None and guess.is_right:
            self._source += 1
            self.agreed = min(self.agreed + 1, LONGEST_MATCH)
        else:
            self._search()
        return guess

    def _put(self, token: int) -> None:
        if self._count == len(self._tokens):
            import numpy as np

            self._tokens = np.concatenate((self._tokens, np.empty(max(64, self._count), np.int64)))
        self._tokens[self._count] = token
        self._count += 1

    def _search(self) -> None:
        """Find the place that the last tokens have stood at before."""
        self.agreed = 0
        text = self._tokens[: self._count]
        earlier = len(text) - SHORTEST_MATCH
        if earlier <= 0:
            return
        found = text[:earlier] == text[-SHORTEST_MATCH]
        for index in range(1, SHORTEST_MATCH):
            found &= text[index : earlier + index] == text[index - SHORTEST_MATCH]
        for begin in found.nonzero()[0][: -MATCHES_COMPARED - 1 : -1].tolist():
            place = begin + SHORTEST_MATCH
            agreed = self._agreement(text, place)
            if agreed > self.agreed:
                self.agreed, self._source = agreed, place

    def _agreement(self, text: NDArray[np.int64], place: int) -> int:
        """How many tokens before a place are the last ones of the text."""
        most = min(place, LONGEST_MATCH)
        differing = (text[place - most : place] != text[len(text) - most :]).nonzero()[0]
        return most - 1 - int(differing[-1]) if len(differing) else most


class LookupDrafter:
    """Drafts the answers of one engine, each from its own tokens."""

    def __init__(self) -> None:
        self._lookups: dict[Run, Lookup] = {}
        self.caught_up = True

    def outlook(self, run: Run) -> Outlook:
        """What can be drafted for an answer now."""
        lookup = self._lookups.get(run)
        if lookup is None:
            held = [] if run.slot is None else run.slot.tokens
            lookup = self._lookups[run] = Lookup([*held, *run.pending])
        return Outlook(LENGTHS[-1] if lookup.agreed else 0, lookup.agreed)

    def draft(self, runs: Sequence[Run], counts: Sequence[int]) -> Sequence[Sequence[int]]:
        """The next tokens of each answer, at most so many."""
        pairs = zip(runs, counts, strict=True)
        return [self._lookups[run].draft(count) if count else () for run, count in pairs]

    def observe(self, run: Run, token: int) -> Guess | None:
        """Note the token that came next; None if nothing was guessed."""
        lookup = self._lookups.get(run)
        return None if lookup is None else lookup.append(token)

    def end(self, run: Run) -> None:
        """Forget an answer that has ended."""
        self._lookups.pop(run, None)

    def clear(self) -> None:
        """Nothing is kept of answers that have ended."""
