"""Bets in virtual time: what the service's preload loop would have loaded before anybody asked for it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from suite.domain.footprint import Footprint
from suite.prediction.bets import Bet, bets, is_likely
from suite.prediction.chance import Calibration, UseChance
from suite.prediction.eviction.policy import Candidate

INTERVAL_SECONDS: Final = 300.0
"""How often bets are taken: the service's default."""
RETRY_SECONDS: Final = 10.0
"""After how long it looks again where somebody waits for memory, as in the service."""
_QUIET_SHARE: Final = 1 / 16
"""Where nothing is used for long, little changes: bets are taken after such a share of the quiet time."""


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
        self._likely: frozenset[str] = frozenset()
        """The models in memory that were likely to be used when it was looked last."""
        self._last_used = math.inf

    def used(self, model_id: str, at: float, *, conversation: str) -> None:
        """Learn of a use that is over."""
        self._last_used = at
        self._chance.used(model_id, at, conversation=conversation)

    def asked(self, model_id: str, at: float) -> None:
        """Settle a bet: somebody asks for a model that is in memory."""
        bet = self._open.pop(model_id, None)
        if bet is not None:
            self._settle(bet, is_won=at <= bet.until)

    def left(self, model_id: str, at: float) -> None:
        """Settle a bet: the model left before anybody asked for it, or after the time of the bet."""
        self.expire(at)
        if self._open.pop(model_id, None) is not None:
            self.lost += 1

    def expire(self, now: float) -> None:
        """Settle the bets whose time is over."""
        for model_id in [each for each, bet in self._open.items() if bet.until < now]:
            self._settle(self._open.pop(model_id), is_won=False)

    def pause_seconds(self, now: float) -> float:
        """After how long to take bets again."""
        return max(INTERVAL_SECONDS, (now - self._last_used) * _QUIET_SHARE)

    def look(self, resident: Iterable[str], now: float) -> None:
        """See which of the models in memory are likely to be used."""
        self.expire(now)
        self._likely = frozenset(id for id in resident if is_likely(self.chance(id, now)))

    def chance(self, model_id: str, now: float) -> float:
        """The chance of a use from now on within the horizon."""
        return self._estimates.corrected(self._chance.chance(model_id, now=now))

    def keeps(self, model_id: str, now: float) -> bool:
        """Whether a model stays in memory though it is unused."""
        bet = self._open.get(model_id)
        return model_id in self._likely or (bet is not None and now <= bet.until)

    def take(
        self, resident: Collection[str], idle: Collection[str], free_bytes: Footprint, now: float
    ) -> Bet | None:
        """Take the bet that pays most; None if none pays."""
        estimates = self._chance.chances(now=now)
        candidates = self._candidates
        pay = bets(
            [candidates[each] for each in estimates if each not in resident and each not in self._open],
            [candidates[each] for each in idle],
            free_bytes,
            lambda model_id: self._estimates.corrected(estimates.get(model_id, 0.0)),
        )
        if not pay:
            return None
        model_id = pay[0].candidate.model_id
        until = now + self._chance.horizon_seconds
        self._open[model_id] = _Open(until=until, estimate=estimates[model_id])
        return pay[0]

    def _settle(self, bet: _Open, *, is_won: bool) -> None:
        self.won += is_won
        self.lost += not is_won
        self._estimates.settle(bet.estimate, is_won)
