"""Loads models before they are asked for, where a bet on it pays (`suite.prediction.bets`, ADR 45)."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, AsyncExitStack
from typing import Final

import anyio

from suite import telemetry
from suite.catalogue import Model
from suite.errors import SuiteError, UnknownOutcome
from suite.messages.actions.residency import LoadModelReply, LoadModelRequest
from suite.messages.events import PredictionMade
from suite.node.admission import Terms
from suite.node.fleet.leadership import Leadership
from suite.node.instance import Instance
from suite.node.node import Node
from suite.node.prospects import Prospects
from suite.node.settlement import Settlement
from suite.prediction.bet_book import LOADED_ALREADY, not_loaded

logger = logging.getLogger("suite.node")

LEAST_PAUSE_SECONDS: Final = 0.5
"""How often it is looked whether this node is the one of the fleet that takes bets."""
LOAD_SECONDS: Final = 600.0
"""How long another node may take to load a model."""
RETRY_SECONDS: Final = 10.0
"""After how long it looks again where a round was not possible."""


class Preloader:
    """Takes bets, one after the other: each into the memory as it is once the bet before it is loaded."""

    def __init__(self, node: Node, interval_seconds: float) -> None:
        self.settlement = Settlement(
            node.name, node.learning.bets, node.journal, node.supervisor, now=node.now
        )
        self._node = node
        self._prospects = Prospects(node)
        self._interval_seconds = interval_seconds
        self._likely: frozenset[str] = frozenset()
        """The models in memory that are likely to be used."""

    async def run(self, leadership: Leadership) -> None:
        """Take the bets that pay, first as soon as the history is known and then after every interval.

        `leadership`: of the fleet, so that only one node takes bets at a time.
        """
        while True:
            if not leadership.is_held:
                self._likely = self._prospects.likely()
                pause_seconds = LEAST_PAUSE_SECONDS
            elif await self._round(leadership):
                pause_seconds = self._interval_seconds
            else:
                pause_seconds = min(RETRY_SECONDS, self._interval_seconds)
            await anyio.sleep(pause_seconds)

    def keep_alive(self, model: Model) -> float:
        """The idle time in seconds after which the model is unloaded; infinite for one that is likely used.

        Otherwise it would be unloaded and loaded again in every round. A model whose file is out of reach
        stays as well: it could not be loaded again.
        """
        now = self._node.catalogue.models.get(model.model_id)
        is_out_of_reach = now is not None and now.outage is not None
        is_likely = model.model_id in self._likely or self._prospects.is_bet_on(model.model_id)
        return math.inf if is_out_of_reach or is_likely else self._node.keep_alive(model)

    async def _round(self, leadership: Leadership) -> bool:
        """Take the bets that pay now. Returns False if others wait, or the log cannot be reached."""
        try:
            while leadership.is_held and (made := await self._best()) is not None:
                with _tracing(made):
                    await self._take(made)
                    if not await self._load(made):
                        break
        except SuiteError as error:
            logger.warning("no bets are taken at the moment: %s", error.message)
            return False
        return not self._node.supervisor.admission.state.waiting

    async def _best(self) -> PredictionMade | None:
        """The best bet; None if none pays now."""
        await self._catch_up()
        self._likely = self._prospects.likely()
        return self._prospects.best()

    async def _take(self, made: PredictionMade) -> None:
        """Take a bet, in the log."""
        undone = not_loaded(made, UnknownOutcome.code)
        await self._node.journal.decide(made, undone=undone, correlation_id=made.prediction_id)
        self._node.predictions_made += 1

    async def _catch_up(self) -> None:
        await self._node.learning.reach((await self._node.log.extent()).last_seq)

    async def _load(self, made: PredictionMade) -> bool:
        """Load what the bet is on, where it is to be loaded. Returns whether that went well."""
        if made.node != self._node.name:
            return await self._have_loaded(made)
        async with AsyncExitStack() as held:
            try:
                instance = await self._begin(made, held)
            except SuiteError as error:
                await self.settlement.record(not_loaded(made, error.code))
                logger.warning("%s, likely to be used, is not loaded: %s", made.model_id, error.message)
                return False
            if instance is None:
                await self.settlement.record(not_loaded(made, LOADED_ALREADY))
                return True
            try:
                await instance.wait_loaded()
            except SuiteError as error:
                logger.warning("%s, likely to be used, is not loaded: %s", made.model_id, error.message)
                return False
        return True

    async def _have_loaded(self, made: PredictionMade) -> bool:
        """Have another node load what the bet is on, which then settles the bet."""
        request = LoadModelRequest(
            model_id=made.model_id, load_wait_ms=0, purpose="preload", only_evicting=made.evicting
        )
        try:
            await self._node.fleet.ask(made.node, "load_model", request, LoadModelReply, seconds=LOAD_SECONDS)
        except SuiteError as error:
            await self.settlement.record(not_loaded(made, error.code))
            logger.warning(
                "%s, likely to be used, is not loaded on %s: %s", made.model_id, made.node, error.message
            )
            return False
        return True

    async def _begin(self, made: PredictionMade, held: AsyncExitStack) -> Instance | None:
        """Begin the load; None if the model is in memory by now."""
        supervisor = self._node.supervisor
        model = await self._node.loadable(made.model_id)
        if made.model_id in supervisor.instances:
            return None
        terms = Terms(purpose="preload", only_evicting=made.evicting)
        hold = supervisor.hold(model, terms, correlation_id=made.prediction_id)
        return await held.enter_async_context(hold)


def _tracing(made: PredictionMade) -> AbstractContextManager[None]:
    """The span of a bet with its load, a trace of its own: nobody has asked for it."""
    return telemetry.span(
        f"bet {made.model_id}",
        {
            "suite.model.id": made.model_id,
            "suite.prediction.id": made.prediction_id,
            "suite.prediction.chance": made.chance,
            "suite.node.name": made.node,
        },
    )
