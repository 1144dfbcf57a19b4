"""Bets in virtual time: what the service's preload loop would have loaded before anybody asked for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from suite.prediction.bets import Bet, bets
from suite.prediction.chance import UseChance
from suite.prediction.eviction.policy import Candidate

INTERVAL_SECONDS: Final = 300.0
"""How often bets are taken: the service's default. Where nothing was used, none are taken."""


class Bettor:
    """Learns the chances of models, takes bets on them, and settles each."""

    def __init__(self, candidates: Mapping[str, Candidate]) -> None:
        self.won = self.lost = 0
        self._candidates = candidates
        self._chance = UseChance()
        self._open: dict[str, float] = {}
        """By model, until when its bet can be won."""

    def used(self, model_id: str, at: float) -> None:
        """Learn of a use that is over."""
        self._chance.used(model_id, at)

    def asked(self, model_id: str, at: float) -> None:
        """Settle a bet: somebody asks for a model that is in memory."""
        until = self._open.pop(model_id, None)
        if until is not None:
            self._settle(at <= until)

    def left(self, model_id: str) -> None:
        """Settle a bet: the model left before anybody asked for it."""
        if self._open.pop(model_id, None) is not None:
            self._settle(False)

    def close(self, at: float) -> None:
        """Settle all whose time is over. Those that could still be won are not counted."""
        self.lost += sum(until < at for until in self._open.values())

    def bets(
        self, resident: Collection[str], idle: Collection[str], free_bytes: int, now: float
    ) -> list[Bet]:
        """The bets to take now."""
        chances = self._chance.chances(now=now)
        candidates = self._candidates
        taken = bets(
            [candidates[each] for each in chances if each not in resident],
            [candidates[each] for each in idle],
            free_bytes,
            lambda model_id: chances.get(model_id, 0.0),
        )
        for bet in taken:
            self._open[bet.candidate.model_id] = now + self._chance.horizon_seconds
        return taken

    def _settle(self, is_won: bool) -> None:
        self.won += is_won
        self.lost += not is_won
