"""Says what the memory of models is worth, by an eviction policy that learns from the log of a node."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from suite.domain.footprint import Footprint
from suite.messages.envelope import Recorded
from suite.messages.events import InstanceLoaded, InstanceUnloaded
from suite.prediction.costs import Costs
from suite.prediction.eviction.best_lately import BestLately
from suite.prediction.eviction.guarded import Guarded
from suite.prediction.eviction.policy import Candidate, Evicted, EvictionPolicy, Fact, Loaded, Used
from suite.prediction.steady_time import SteadyTime
from suite.prediction.uses import use_of


class Appraiser:
    """A policy, with all that it has learned from one node's events.

    The same events and the same moment always give the same worths: so the decisions of a service can be made
    again from its log (`suite.prediction.replay.decisions`).
    """

    name: Final = "the eviction policy"
    aggregates: Final = ("instance", "usage")

    def __init__(
        self,
        node: str,
        policy: EvictionPolicy,
        *,
        limit_bytes: Footprint,
        on_failure: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`limit_bytes` is the memory that the policy was made for. `on_failure` gets what a policy of
        somebody's own did wrong, once.
        """
        self.limit_bytes = limit_bytes
        self.costs = Costs(node)
        self.first_seq = self.last_seq = 0
        """The first and the last event that it has learned from; 0: none yet."""
        self._node = node
        self._policy = policy
        self._on_failure = on_failure
        self._is_failure_told = False
        self._time = SteadyTime(node)

    @property
    def policy(self) -> str:
        """The name of the policy that decides: another than was chosen after a failure."""
        return self._in_force.name

    @property
    def follows(self) -> str:
        """The name of the policy that `best_lately` follows now; empty for others."""
        policy = self._in_force
        return policy.followed if isinstance(policy, BestLately) else ""

    @property
    def failure(self) -> str | None:
        """What a policy of somebody's own did wrong, and who decides instead; None: nothing."""
        if not isinstance(self._policy, Guarded) or self._policy.failure is None:
            return None
        return f"the eviction policy {self._policy.name} has failed: {self._policy.failure}"

    def fold(self, event: Recorded) -> None:
        """Learn of one more event."""
        self.first_seq, self.last_seq = self.first_seq or event.seq, event.seq
        self.costs.fold(event.data)
        fact = self._fact(event)
        if fact is not None:
            self._policy.fold(fact)
            self._tell_failure()

    def worth(self, candidates: Iterable[Candidate], now: datetime) -> dict[str, float]:
        """What the memory of each of these models is worth, by its id: the lowest leaves first."""
        at = self._time.at(now)
        known = list(candidates)
        worths = self._policy.worths(known, now=at)
        worth = {each.model_id: told for each, told in zip(known, worths, strict=True)}
        self._tell_failure()
        return worth

    @property
    def _in_force(self) -> EvictionPolicy:
        return self._policy.in_force if isinstance(self._policy, Guarded) else self._policy

    def _fact(self, event: Recorded) -> Fact | None:
        """What the policy is told of an event; None: nothing."""
        model_id = use_of(event.data, self._node)
        if model_id is not None:
            return Used(at=self._time.advance(event), model_id=model_id)
        match event.data:
            case InstanceLoaded(node=self._node):
                kind: type[Loaded | Evicted] = Loaded
            case InstanceUnloaded(node=self._node, reason="evicted"):
                kind = Evicted
            case _:
                return None
        candidate = self.costs.candidate(event.data.model_id)
        if candidate is None:  # it was loaded before the first event
            return None
        return kind(at=self._time.advance(event), candidate=candidate)

    def _tell_failure(self) -> None:
        if not self._is_failure_told and (failure := self.failure) is not None:
            self._is_failure_told = True
            self._on_failure(failure)
