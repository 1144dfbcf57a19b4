"""What bets there are on the models of this node, as things stand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from suite.catalogue import Model
from suite.domain.footprint import Footprint
from suite.domain.turns import may_leave
from suite.messages.events import Loser, PredictionMade
from suite.node.node import Node
from suite.prediction.bets import MOST_LOSERS, Bet, is_likely, weigh
from suite.prediction.eviction.policy import Candidate

GUESSED_BYTES_A_SECOND: Final = 500_000_000
"""How fast a model is thought to load that never was loaded."""


class Prospects:
    """Weighs bets by what the node has learned from the log."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._learning = node.learning
        self._supervisor = node.supervisor

    def best(self) -> PredictionMade | None:
        """The bet that pays most, as its event; None if none pays, or somebody waits for memory."""
        admission = self._supervisor.admission
        if admission.state.waiting:
            return None
        weighed = weigh(list(self._absent()), list(self._idle()), admission.free_bytes, self.chance)
        if not weighed.taken:
            return None
        best, *others = weighed.taken
        return self._made(best, [*others, *weighed.passed][:MOST_LOSERS])

    def chance(self, model_id: str) -> float:
        """The chance that a model is used within the horizon."""
        return self._learning.bets.corrected(self._estimate(model_id))

    def likely(self) -> frozenset[str]:
        """The models in memory that would be loaded again at once if they left and there was room."""
        return frozenset(id for id in self._supervisor.instances if is_likely(self.chance(id)))

    def is_bet_on(self, model_id: str) -> bool:
        """Whether there is a bet on a model that may still be won."""
        return self._learning.bets.is_open(model_id, now=self._node.now().timestamp())

    def _absent(self) -> Iterator[Candidate]:
        """The models that could be loaded."""
        for model in self._node.catalogue.models.values():
            is_usable = model.error is None and model.outage is None
            if is_usable and model.model_id not in self._supervisor.instances and self._may_bet_on(model):
                yield self._candidate(model, self._supervisor.need_bytes(model))

    def _may_bet_on(self, model: Model) -> bool:
        """Whether it has no bet, and did not fail to load lately, nor again and again."""
        if self._supervisor.quarantine.is_suspect(model):
            return False
        record = self._learning.bets.records.get(model.model_id)
        failed_at = None if record is None else record.failed_at
        waits_until = -math.inf if failed_at is None else failed_at + self._learning.chances.horizon_seconds
        return waits_until <= self._node.now().timestamp() and not self.is_bet_on(model.model_id)

    def _idle(self) -> Iterator[Candidate]:
        """The models in memory that may leave for a bet: none that somebody has asked to keep for ever."""
        state, now = self._supervisor.admission.state, self._node.clock()
        for id, instance in self._supervisor.instances.items():
            if instance.keep_alive != math.inf and may_leave(state, id, now=now, use=instance.occupancy):
                yield self._candidate(instance.model, state.residency.residents[id].reserved_bytes)

    def _candidate(self, model: Model, footprint: Footprint) -> Candidate:
        measured = self._learning.appraiser.costs.candidate(model.model_id)
        seconds = footprint.total / GUESSED_BYTES_A_SECOND if measured is None else measured.reload_seconds
        return Candidate(
            model_id=model.model_id, bytes=footprint.total, gpus=footprint.gpus, reload_seconds=seconds
        )

    def _estimate(self, model_id: str) -> float:
        return self._learning.chances.chance(model_id, now=self._node.now())

    def _made(self, bet: Bet, losers: list[Bet]) -> PredictionMade:
        model_id = bet.candidate.model_id
        assert bet.costs_seconds is not None, "a bet that is taken has room"
        return PredictionMade(
            model_id=model_id,
            node=self._node.name,
            prediction_id=self._node.new_id(),
            chance=round(bet.chance, 6),
            estimate=round(self._estimate(model_id), 6),
            horizon_seconds=self._learning.chances.horizon_seconds,
            saves_seconds=round(bet.saves_seconds, 3),
            costs_seconds=round(bet.costs_seconds, 3),
            bytes=bet.candidate.bytes,
            evicting=bet.evicting,
            losers=tuple(map(_loser, losers)),
        )


def _loser(bet: Bet) -> Loser:
    return Loser(
        model_id=bet.candidate.model_id,
        chance=round(bet.chance, 6),
        saves_seconds=round(bet.saves_seconds, 3),
        costs_seconds=None if bet.costs_seconds is None else round(bet.costs_seconds, 3),
    )
