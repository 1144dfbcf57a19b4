"""What a node learns from the log: whose memory is worth the most, how long models stay (ADR 44), which are
likely to be used, and what became of bets on that (ADR 45)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final

from suite.config import Settings
from suite.domain.footprint import Footprint
from suite.errors import InvalidConfiguration, InvalidRequest
from suite.log import Log
from suite.messages.actions.status import EvictionInfo
from suite.prediction.bet_book import BetBook
from suite.prediction.chance import ChanceFold, UseChance
from suite.prediction.eviction.appraiser import Appraiser
from suite.prediction.eviction.guarded import Watch
from suite.prediction.eviction.policies import policy
from suite.prediction.keep_alive import KeepAliveFold, LearnedKeepAlive
from suite.prediction.live import Fold, LiveFolds

FOLD_FAILED: Final = "fold_failed"
POLICY_FAILED: Final = "policy_failed"
"""The types of the errors that are reported: a fold cannot go on, a policy of somebody's own has failed."""
CALL_SECONDS: Final = 0.5
"""After one to two times as long, a call of a policy of somebody's own is ended: the node waits for it."""


class Learning:
    """The folds of a node, which follow the log in memory."""

    def __init__(
        self, settings: Settings, log: Log, limit_bytes: Footprint, *, report: Callable[[str, str], None]
    ) -> None:
        """`report` gets the type of an error, and the error. Raises InvalidConfiguration for a policy that
        cannot be made.
        """
        self._chosen = settings.eviction_policy
        self._watch = Watch(CALL_SECONDS)
        with self._watched():
            self.appraiser = self._appraiser(settings.node, limit_bytes, partial(report, POLICY_FAILED))
        self.keep_alive = _keep_alive(settings)
        """How long models stay, where that is learned."""
        self.chances = ChanceFold(settings.node, UseChance())
        self.bets = BetBook(settings.node)
        folds: list[Fold] = [self.appraiser, self.chances, self.bets]
        if self.keep_alive is not None:
            folds.append(self.keep_alive)
        self._live = LiveFolds(log, folds, lasting=("prediction",), on_problem=partial(report, FOLD_FAILED))

    async def reach(self, seq: int) -> None:
        """Wait until all that happened up to this sequence has been learned."""
        await self._live.reach(seq)

    @property
    def problems(self) -> tuple[str, ...]:
        """What has failed since the start, and who goes on instead."""
        failure = self.appraiser.failure
        return (*self._live.problems, *([failure] if failure is not None else []))

    @property
    def eviction(self) -> EvictionInfo:
        """Who decides which models leave."""
        appraiser = self.appraiser
        return EvictionInfo(
            policy=appraiser.policy,
            follows=appraiser.follows,
            instead_of=self._chosen if appraiser.failure is not None else "",
            last_seq=appraiser.last_seq,
        )

    async def run(self) -> None:
        """Follow the log until cancelled."""
        with self._watched():
            await self._live.run()

    def _watched(self) -> ExitStack:
        """While this is open, calls of a policy of somebody's own are ended if they take too long."""
        stack = ExitStack()
        if ":" in self._chosen:
            stack.enter_context(self._watch.armed())
        return stack

    def _appraiser(self, node: str, limit_bytes: Footprint, on_failure: Callable[[str], None]) -> Appraiser:
        if ":" in self._chosen and "" not in sys.path:
            sys.path.append("")  # as for `suite replay`, it may be in the working directory
        try:
            made = policy(self._chosen, limit_bytes, self._watch)
        except InvalidRequest as error:
            raise InvalidConfiguration(f"eviction_policy: {error.message}") from error
        return Appraiser(node, made, limit_bytes=limit_bytes, on_failure=on_failure)


def _keep_alive(settings: Settings) -> KeepAliveFold | None:
    """None for the plain idle timeout; also where models never leave, as there is nothing to spend."""
    if settings.keep_alive_policy == "idle_timeout" or not settings.idle_timeout_seconds:
        return None
    return KeepAliveFold(settings.node, LearnedKeepAlive(settings.idle_timeout_seconds))
