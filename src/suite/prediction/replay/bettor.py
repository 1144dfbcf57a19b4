"""Bets in virtual time: what the service's preload loop would have loaded before anybody asked for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from suite.prediction.bets import Bet, bets
from suite.prediction.chance import Calibration, UseChance
from suite.prediction.eviction.policy import Candidate

INTERVAL_SECONDS: Final = 300.0
"""How often bets are taken: the service's default. Where nothing was used, none are taken."""


class _Open(msgspec.Struct, frozen=True, kw_only=True):
    """A bet that is not settled yet."""

    until: float
    estimate: float
    """What the history of uses said, before it was corrected by what became of bets."""


class Bettor:
    """Learns the chances of models, takes bets on them, and settles each."""

    def __init__(self, candidates: Mapping[str, Candidate]) -> None:
        self.won = self.lost = 0
        self._candidates = candidates
        self._chance = UseChance()
        self._estimates = Calibration()
        """Of those with bets, as in the service: bets are taken on the highest, which are too high."""
        self._open: dict[str, _Open] = {}
        """By model."""

    def used(self, model_id: str, at: float, *, conversation: str) -> None:
        """Learn of a use that is over."""
        self._chance.used(model_id, at, conversation=conversation)

    def asked(self, model_id: str, at: float) -> None:
        """Settle a bet: somebody asks for a model that is in memory."""
        bet = self._open.pop(model_id, None)
        if bet is not None:
            self._settle(bet, is_won=at <= bet.until)

    def left(self, model_id: str) -> None:
        """Settle a bet: the model left before anybody asked for it."""
        if self._open.pop(model_id, None) is not None:
            self.lost += 1

    def expire(self, now: float) -> None:
        """Settle the bets whose time is over."""
        for model_id in [each for each, bet in self._open.items() if bet.until < now]:
            self._settle(self._open.pop(model_id), is_won=False)

    def bets(
        self, resident: Collection[str], idle: Collection[str], free_bytes: int, now: float
    ) -> list[Bet]:
        """The bets to take now."""
        self.expire(now)
        estimates = self._chance.chances(now=now)
        candidates = self._candidates
        taken = bets(
            [candidates[each] for each in estimates if each not in resident],
            [candidates[each] for each in idle],
            free_bytes,
            lambda model_id: self._estimates.corrected(estimates.get(model_id, 0.0)),
        )
        for bet in taken:
            model_id = bet.candidate.model_id
            until = now + self._chance.horizon_seconds
            self._open[model_id] = _Open(until=until, estimate=estimates[model_id])
        return taken

    def _settle(self, bet: _Open, *, is_won: bool) -> None:
        self.won += is_won
        self.lost += not is_won
        self._estimates.settle(bet.estimate, is_won)
