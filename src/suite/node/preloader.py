"""Loads models before they are asked for, where a bet on it pays (`suite.prediction.bets`, ADR 45)."""

from __future__ import annotations

import logging
import math
from contextlib import AsyncExitStack
from typing import Final

import anyio

from suite.bus.kv import Leases
from suite.catalogue import Model
from suite.domain.turns import may_leave
from suite.errors import SuiteError, UnknownOutcome
from suite.messages.events import Loser, PredictionMade, PredictionSettled
from suite.node.admission import Terms
from suite.node.generations import failure_of
from suite.node.instance import Instance
from suite.node.node import Node
from suite.node.settlement import Settlement
from suite.prediction.bet_book import LOADED_ALREADY
from suite.prediction.bets import WORK_SHARE, Bet, Round, weigh
from suite.prediction.eviction.policy import Candidate

logger = logging.getLogger("suite.node")

LEASE: Final = "predictor"
"""What a node holds while it takes a bet: only one in the fleet does so at a time."""
LEASE_SECONDS: Final = 5.0
LEASE_RETRY_SECONDS: Final = 0.5
GUESSED_BYTES_A_SECOND: Final = 500_000_000
"""How fast a model is thought to load while none has been."""


class Preloader:
    """Takes bets, one after the other: each into the memory as it is once the bet before it is loaded."""

    def __init__(self, node: Node, settlement: Settlement, leases: Leases, interval_seconds: float) -> None:
        self._node = node
        self._settlement = settlement
        self._leases = leases
        self._interval_seconds = interval_seconds
        self._kept: frozenset[str] = frozenset()
        """The models in memory that would be loaded again at once if they left."""

    async def run(self) -> None:
        """Take the bets that pay, first as soon as the history is known and then after every interval."""
        while True:
            try:
                while (made := await self._take()) is not None and await self._load(made):
                    pass
            except SuiteError as error:
                logger.warning("no bets are taken at the moment: %s", error.message)
            await anyio.sleep(self._interval_seconds)

    def keep_alive(self, model: Model) -> float:
        """The idle time in seconds after which the model is unloaded; infinite for one that is likely used.

        Otherwise it would be unloaded and loaded again in every round. A model whose file is out of reach
        stays as well: it could not be loaded again.
        """
        now = self._node.catalogue.models.get(model.model_id)
        is_out_of_reach = now is not None and now.outage is not None
        stays = is_out_of_reach or model.model_id in self._kept or self._is_bet_on(model.model_id)
        return math.inf if stays else self._node.keep_alive(model)

    # --- taking a bet -------------------------------------------------------------------------------------

    async def _take(self) -> PredictionMade | None:
        """Take the best bet, in the log, while no other node takes one; None if none pays now."""
        lease = await self._leases.take(LEASE, self._node.name.encode())
        while lease is None:
            await anyio.sleep(LEASE_RETRY_SECONDS)
            lease = await self._leases.take(LEASE, self._node.name.encode())
        try:
            await self._node.live.reach((await self._node.log.extent()).last_seq)
            return await self._best(self._weigh())
        finally:
            with anyio.move_on_after(LEASE_SECONDS, shield=True):
                await self._release(lease)

    async def _release(self, lease: int) -> None:
        try:
            await self._leases.release(LEASE, lease)
        except SuiteError as error:  # it expires by itself
            logger.info("the lease of the predictor was not given back: %s", error.message)

    async def _best(self, weighed: Round) -> PredictionMade | None:
        if not weighed.taken:
            return None
        best, *others = weighed.taken
        made = self._made(best, [*others, *weighed.passed])
        undone = PredictionSettled(
            model_id=made.model_id,
            node=made.node,
            prediction_id=made.prediction_id,
            outcome="waste",
            reason="failed",
            detail=UnknownOutcome.code,
            chance=made.chance,
            saved_seconds=0.0,
            byte_seconds=0.0,
        )
        await self._node.journal.decide(made, undone=undone, correlation_id=made.prediction_id)
        self._node.predictions_made += 1
        return made

    def _made(self, bet: Bet, losers: list[Bet]) -> PredictionMade:
        return PredictionMade(
            model_id=bet.candidate.model_id,
            node=self._node.name,
            prediction_id=self._node.new_id(),
            chance=_rounded(bet.chance),
            estimate=_rounded(self._estimate(bet.candidate.model_id)),
            horizon_seconds=self._node.chances.horizon_seconds,
            saves_seconds=round(bet.saves_seconds, 3),
            costs_seconds=round(bet.costs_seconds or 0.0, 3),
            bytes=bet.candidate.bytes,
            evicting=bet.evicting,
            losers=tuple(
                Loser(
                    model_id=each.candidate.model_id,
                    chance=_rounded(each.chance),
                    saves_seconds=round(each.saves_seconds, 3),
                    costs_seconds=None if each.costs_seconds is None else round(each.costs_seconds, 3),
                )
                for each in losers
            ),
        )

    def _weigh(self) -> Round:
        """Weigh a bet on each model that is not in memory; none while somebody waits for memory."""
        admission = self._node.supervisor.admission
        instances = self._node.supervisor.instances
        self._kept = frozenset(id for id in instances if self._chance(id) > WORK_SHARE)
        if admission.state.waiting:
            return Round(taken=(), passed=())
        absent = [self._candidate(model) for model in self._node.catalogue.models.values() if self._may_load(model)]
        idle = [self._candidate(each.model) for each in instances.values() if self._may_leave(each)]
        return weigh(absent, idle, admission.free_bytes, self._chance)

    def _may_load(self, model: Model) -> bool:
        if model.model_id in self._node.supervisor.instances or model.error is not None or model.outage is not None:
            return False
        now = self._node.now().timestamp()
        record = self._node.bets.records.get(model.model_id)
        failed_at = -math.inf if record is None or record.failed_at is None else record.failed_at
        is_tried_again = failed_at + self._node.chances.horizon_seconds <= now
        return is_tried_again and not self._node.bets.is_open(model.model_id, now=now)

    def _may_leave(self, instance: Instance) -> bool:
        """Whether a model may leave for a bet: never what somebody wants to stay."""
        if instance.keep_alive == math.inf:
            return False
        state, now = self._node.supervisor.admission.state, self._node.clock()
        return may_leave(state, instance.model.model_id, now=now, use=instance.occupancy)

    def _candidate(self, model: Model) -> Candidate:
        """What the model takes: as measured, or else as estimated."""
        measured = self._node.costs.candidate(model.model_id)
        instance = self._node.supervisor.instances.get(model.model_id)
        bytes_ = model.need_bytes if instance is None else max(model.need_bytes, instance.resident_bytes)
        seconds = bytes_ / GUESSED_BYTES_A_SECOND if measured is None else measured.reload_seconds
        return Candidate(model_id=model.model_id, bytes=bytes_, reload_seconds=seconds)

    def _chance(self, model_id: str) -> float:
        return self._node.bets.corrected(self._estimate(model_id))

    def _estimate(self, model_id: str) -> float:
        return self._node.chances.chance(model_id, now=self._node.now().timestamp())

    def _is_bet_on(self, model_id: str) -> bool:
        return self._node.bets.is_open(model_id, now=self._node.now().timestamp())

    # --- loading it ---------------------------------------------------------------------------------------

    async def _load(self, made: PredictionMade) -> bool:
        """Load what the bet is on. Returns whether that went well."""
        supervisor = self._node.supervisor
        async with AsyncExitStack() as held:
            try:
                model = await self._node.loadable(made.model_id)
                if made.model_id in supervisor.instances:
                    await self._settlement.not_loaded(made, LOADED_ALREADY)
                    return True
                terms = Terms(only_evicting=made.evicting)
                hold = supervisor.hold(model, terms, correlation_id=made.prediction_id)
                instance = await held.enter_async_context(hold)
            except SuiteError as error:
                await self._settlement.not_loaded(made, error.code)
                logger.warning("%s, likely to be used, is not loaded: %s", made.model_id, error.message)
                return False
            try:
                await self._until_loaded(instance)
            except SuiteError as error:
                logger.warning("%s, likely to be used, is not loaded: %s", made.model_id, error.message)
                return False
        return True

    async def _until_loaded(self, instance: Instance) -> None:
        """Wait until it is loaded, or give its memory to somebody who waits for it. Raises why it failed."""
        model_id = instance.model.model_id
        while instance.phase == "loading":
            if instance.unloading is None and self._node.supervisor.admission.is_awaited(model_id):
                self._node.supervisor.retire(model_id, "evicted", drain_seconds=0.0)
            await instance.wait_change()
        if instance.phase != "loaded":
            raise failure_of(instance)


def _rounded(chance: float) -> float:
    return round(chance, 6)
