"""Writes what became of this node's bets into the log (ADR 45)."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import AbstractContextManager
from typing import Final

from suite import telemetry
from suite.errors import InvalidRequest, LogNotWritable, SuiteError, TooLarge
from suite.identity import Now
from suite.messages.events import PredictionSettled
from suite.node.journal import Journal
from suite.node.measurements import BetMeasurements
from suite.node.supervisor import Supervisor
from suite.prediction.bet_book import BetBook
from suite.ticks import tick

logger = logging.getLogger("suite.node")

INTERVAL_SECONDS: Final = 1.0
_REMEMBERED: Final = 1000
"""Many more than there are bets whose end is in the log but not yet in the book."""


class Settlement:
    """Settles each bet of a node once, also those that were open when it stopped."""

    def __init__(
        self, node: str, book: BetBook, journal: Journal, supervisor: Supervisor, *, now: Now
    ) -> None:
        self._node = node
        self._book = book
        self._journal = journal
        self._supervisor = supervisor
        self._now = now
        self._measurements = BetMeasurements()
        self._written: deque[str] = deque(maxlen=_REMEMBERED)

    async def run(self) -> None:
        """Settle bets as soon as their outcome is known, until cancelled."""
        while True:
            await tick(INTERVAL_SECONDS)
            in_use = {id for id, instance in self._supervisor.instances.items() if instance.holds}
            now = self._now().timestamp()
            for settled in tuple(self._book.due(self._node, now=now, in_use=in_use)):
                await self.record(settled)

    async def record(self, settled: PredictionSettled) -> None:
        """Have it in the log once, even if the log does not take events now."""
        if settled.prediction_id in self._written:
            return
        self._written.append(settled.prediction_id)
        try:
            with self._tracing(settled):
                await self._journal.record(settled, correlation_id=settled.prediction_id)
        except LogNotWritable as error:  # the journal writes it later
            logger.warning("what became of a bet is not in the log yet: %s", error.message)
        except (TooLarge, InvalidRequest) as error:  # it will never be taken
            logger.error("what became of a bet is left out of the log: %s", error.message)
            return
        except SuiteError as error:
            self._written.remove(settled.prediction_id)  # it is tried again as long as the bet is open
            logger.warning("what became of a bet is not in the log: %s", error.message)
            return
        self._measurements.settled(settled)

    def _tracing(self, settled: PredictionSettled) -> AbstractContextManager[None]:
        """The span of a settlement, linked to its bet, which may have been taken hours ago."""
        bet = self._book.open.get(settled.prediction_id)
        return telemetry.span(
            f"settle bet {settled.model_id}",
            {
                "suite.model.id": settled.model_id,
                "suite.prediction.id": settled.prediction_id,
                "suite.prediction.outcome": settled.outcome,
                "suite.prediction.reason": settled.reason,
            },
            links=[None if bet is None else bet.traceparent],
        )
