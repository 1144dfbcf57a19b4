"""Speculation: a step decodes guesses of an answer's next tokens with its last one, and keeps the right ones.

The logits after each guess come with the same step, and the sampler chooses from them as ever: a guess is
right if it is what the sampler chooses anyway. So grammars, penalties and draws are as without speculation
(Leviathan et al., ICML 2023, for guesses that are certain). What was guessed wrongly leaves the KV cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from suite.engine.backend import Backend
from suite.engine.payoff import Guess, Outlook, Payoff
from suite.engine.scheduler import BatchShare, Run

_NOTHING = Outlook(available=0, agreed=0)


class Drafter(Protocol):
    """Guesses the next tokens of answers."""

    @property
    def caught_up(self) -> bool:
        """Whether the last drafts took only what drafts take: nothing was read for them besides."""

    def outlook(self, run: Run) -> Outlook:
        """What can be drafted for an answer now."""

    def draft(self, runs: Sequence[Run], counts: Sequence[int]) -> Sequence[Sequence[int]]:
        """The next tokens of each answer, at most so many; fewer where they are not known."""

    def observe(self, run: Run, token: int) -> Guess | None:
        """Note the token that came next; None if nothing was guessed."""

    def end(self, run: Run) -> None:
        """Note that an answer has ended."""

    def clear(self) -> None:
        """Forget the tokens of all answers that have ended."""


class Speculation:
    """Drafts for the answers of one engine, where they pay."""

    def __init__(self, backend: Backend, drafter: Drafter, payoff: Payoff) -> None:
        self._backend = backend
        self._drafter = drafter
        self._payoff = payoff

    def drafted(self, shares: Sequence[BatchShare]) -> Sequence[BatchShare]:
        """The shares of a batch with the drafts that pay; none beside prompts, which fill a step."""
        if not all(share.run.prefilled for share in shares):
            return shares
        outlooks = [self._outlook(share.run) for share in shares]
        most = min(self._backend.batch_tokens, self._backend.scored_tokens) - len(shares)
        length = self._payoff.length(outlooks, most)
        if not length:
            return shares
        counts = [min(each.available, length) for each in outlooks]
        drafts = self._drafter.draft([share.run for share in shares], counts)
        return [share._replace(drafts=each) for share, each in zip(shares, drafts, strict=True)]

    def learn(self, answers: int, drafts: int, seconds: float) -> None:
        """Take account of how long a step of only answers took.

        One in which a draft model has read a prompt says nothing of the next ones.
        """
        if not drafts or self._drafter.caught_up:
            self._payoff.learn(answers, drafts, seconds)

    def observe(self, run: Run, token: int) -> None:
        """Note which token came next in an answer."""
        guess = self._drafter.observe(run, token)
        if guess is not None:
            self._payoff.acceptance.learn(guess)

    def end(self, run: Run) -> None:
        """Note that an answer has ended."""
        self._drafter.end(run)

    def clear(self) -> None:
        """Forget the tokens of all answers that have ended."""
        self._drafter.clear()

    def _outlook(self, run: Run) -> Outlook:
        """What can be drafted for an answer and taken back, and is not longer than the answer may be."""
        request, slot = run.generation.request, run.slot
        if not request.speculates or not self._backend.can_share or slot is None:
            return _NOTHING
        held = len(slot.tokens)
        room = self._backend.context_tokens - held - 1
        missing = request.max_tokens - run.generation.completion_tokens - 1
        outlook = self._drafter.outlook(run)
        available = min(outlook.available, room, missing)
        if available <= 0 or self._backend.min_prefix(slot.sequence) > held:
            return _NOTHING
        return outlook._replace(available=available)
