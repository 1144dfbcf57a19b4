"""What bets there are on the models of this node and of the others, as things stand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from suite.domain.footprint import Footprint
from suite.domain.nodes import Nodes, NodeView
from suite.domain.placement import Wanted, place
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
        """The bet that pays most, as its event; None if none pays.

        A model is weighed for the node where it would be loaded for a request, if nobody waits for memory
        there.
        """
        nodes = self._node.fleet.views()
        taken: list[tuple[Bet, str]] = []
        passed: list[Bet] = []
        for node, absent in self._by_node(nodes).items():
            if not nodes[node].waiting:
                weighed = weigh(absent, list(self._idle(nodes[node])), nodes[node].free, self.chance)
                taken += [(bet, node) for bet in weighed.taken]
                passed += weighed.passed
        if not taken:
            return None
        best, node = max(taken, key=lambda pair: pair[0].gain)
        losers = [*(bet for bet, _ in taken if bet is not best), *passed]
        return self._made(best, node, sorted(losers, key=lambda bet: -bet.saves_seconds)[:MOST_LOSERS])

    def chance(self, model_id: str) -> float:
        """The chance that a model is used within the horizon."""
        return self._learning.bets.corrected(self._estimate(model_id))

    def likely(self) -> frozenset[str]:
        """The models in memory that would be loaded again at once if they left and there was room."""
        return frozenset(id for id in self._supervisor.instances if is_likely(self.chance(id)))

    def is_bet_on(self, model_id: str) -> bool:
        """Whether there is a bet on a model that may still be won."""
        return self._learning.bets.is_open(model_id, now=self._node.now().timestamp())

    def _by_node(self, nodes: Nodes) -> dict[str, list[Candidate]]:
        """The models that could be loaded, by the node where they would be."""
        found: dict[str, list[Candidate]] = {}
        for candidate in self._absent(nodes):
            id, node = candidate.model_id, self._node.name
            if len(nodes) > 1 and is_likely(self.chance(id)):  # else it does not pay anywhere
                placed = place(Wanted(model_id=id), nodes, here=node)
                node = node if placed is None else placed.node
            found.setdefault(node, []).append(candidate)
        return found

    def _absent(self, nodes: Nodes) -> Iterator[Candidate]:
        """The models that no node has loaded, and some could load."""
        own = self._node.catalogue.models
        for id, model in own.items():
            is_usable = model.error is None and model.outage is None
            is_suspect = self._supervisor.quarantine.is_suspect(model)
            if is_usable and not is_suspect and self._may_bet_on(id, nodes):
                yield self._candidate(id, self._supervisor.need_bytes(model))
        of_others = {id: offered for catalogue in nodes.catalogues for id, offered in catalogue.items()}
        for id, offered in of_others.items():
            if id not in own and self._may_bet_on(id, nodes):
                yield self._candidate(id, offered.footprint)

    def _may_bet_on(self, model_id: str, nodes: Nodes) -> bool:
        """Whether it is not loaded, has no bet, and did not fail to load lately."""
        if model_id in nodes.hosted or model_id in self._supervisor.instances:
            return False
        record = self._learning.bets.records.get(model_id)
        failed_at = None if record is None else record.failed_at
        waits_until = -math.inf if failed_at is None else failed_at + self._learning.chances.horizon_seconds
        return waits_until <= self._node.now().timestamp() and not self.is_bet_on(model_id)

    def _idle(self, view: NodeView) -> Iterator[Candidate]:
        """The models in a node's memory that may leave for a bet: none that somebody has asked to keep for
        ever, which another node sees to itself.
        """
        if view.node != self._node.name:
            for id, hosted in view.hosted.items():
                if hosted.may_leave:
                    yield self._candidate(id, hosted.footprint)
            return
        state, now = self._supervisor.admission.state, self._node.clock()
        for id, instance in self._supervisor.instances.items():
            if instance.keep_alive != math.inf and may_leave(state, id, now=now, use=instance.occupancy):
                yield self._candidate(id, state.residency.residents[id].reserved_bytes)

    def _candidate(self, model_id: str, footprint: Footprint) -> Candidate:
        measured = self._learning.appraiser.costs.candidate(model_id)
        seconds = footprint.total / GUESSED_BYTES_A_SECOND if measured is None else measured.reload_seconds
        return Candidate(
            model_id=model_id, bytes=footprint.total, gpus=footprint.gpus, reload_seconds=seconds
        )

    def _estimate(self, model_id: str) -> float:
        return self._learning.chances.chance(model_id, now=self._node.now())

    def _made(self, bet: Bet, node: str, losers: list[Bet]) -> PredictionMade:
        model_id = bet.candidate.model_id
        assert bet.costs_seconds is not None, "a bet that is taken has room"
        return PredictionMade(
            model_id=model_id,
            node=node,
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
