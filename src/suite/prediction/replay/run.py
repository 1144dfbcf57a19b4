"""One policy with one budget, replayed on a history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from suite.prediction.eviction.guarded import Guarded, Watch
from suite.prediction.eviction.policies import DEFAULT, POLICIES, policy
from suite.prediction.eviction.policy import EvictionPolicy
from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.keep_alive import KeepAlive, LearnedKeepAlive, TimeToLive
from suite.prediction.replay.belady import Belady
from suite.prediction.replay.bettor import Bettor
from suite.prediction.replay.history import History
from suite.prediction.replay.node import VirtualNode, limits
from suite.prediction.replay.outcome import Outcome

Budget: TypeAlias = int | None
"""In bytes; None: no limit, so that only a keep-alive makes models leave."""
CALL_SECONDS: Final = 2.0
"""How long one call of a policy of somebody's own may take."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be replayed."""

    policy: str = LeastRecentlyUsed.name
    budget: Budget
    ttl_seconds: float | None = None
    """How long models stay after a use; None: as long as nobody needs their memory."""
    is_learned: bool = False
    """Whether models stay as long as was learned, and the time to live only says what that may cost."""
    with_bets: bool = False
    instant: bool = False
    """See `suite.prediction.replay.node`."""

    @property
    def is_own(self) -> bool:
        """Whether its policy is one of somebody's own."""
        return self.policy not in POLICIES and self.policy != Belady.name

    def by_default(self) -> Run:
        """The same with the default policy."""
        return msgspec.structs.replace(self, policy=DEFAULT)

    def outcome(self, history: History, *, beat: Callable[[], None] = lambda: None) -> Outcome:
        """Replay a history. ``beat`` is called with each request: as long as it is, this goes on."""
        watch = Watch(CALL_SECONDS)
        keep_alive = self._keep_alive()
        with watch.armed():
            decider = self._decider(history, watch)
            node = VirtualNode(
                history,
                decider,
                limit_bytes=self.budget,
                keep_alive=keep_alive,
                bettor=Bettor(history.candidates) if self.with_bets else None,
                instant=self.instant,
            )
            outcome = node.run(self.policy, beat=beat)
        return msgspec.structs.replace(
            outcome,
            keep_alive="" if keep_alive is None else keep_alive.name,
            with_bets=self.with_bets,
            remark=(decider.failure or "") if isinstance(decider, Guarded) else "",
        )

    def _decider(self, history: History, watch: Watch) -> EvictionPolicy:
        if self.policy == Belady.name:
            return Belady(history.requests)
        return policy(self.policy, limits(history, self.budget), watch)

    def _keep_alive(self) -> KeepAlive | None:
        if self.ttl_seconds is None:
            return None
        return (LearnedKeepAlive if self.is_learned else TimeToLive)(self.ttl_seconds)
