"""A node in virtual time: the service's decider of turns, with no process behind it.

A model is in memory from the moment when its load is decided; who asks for it while it is loading waits for
what is left of the load. A request holds its model only at the moment when it comes, and no model has a least
time in memory, so that what is compared is who leaves, and nothing else.
"""

from __future__ import annotations

import math
from typing import Final

from suite.domain.residency import Residency
from suite.domain.turn_plan import plan
from suite.domain.turns import Ask, BecameReady, Occupancy, Start, Turns, decide, evolve
from suite.domain.turns import Request as Demand
from suite.errors import NotEnoughMemory
from suite.messages.events import InstanceLoaded, InstanceLoadStarted, InstanceUnloaded, UnloadReason
from suite.prediction.eviction.policy import Candidate, Evicted, EvictionPolicy, Loaded, Used
from suite.prediction.keep_alive import KeepAlive
from suite.prediction.replay.history import History, Request
from suite.prediction.replay.outcome import Outcome, Tally
from suite.prediction.replay.schedule import Schedule

UNLIMITED: Final = 1 << 62
_NODE: Final = "replay"


class VirtualNode:
    """Serves a history, one request after the other."""

    def __init__(
        self,
        history: History,
        policy: EvictionPolicy,
        *,
        limit_bytes: int | None,
        keep_alive: KeepAlive | None = None,
    ) -> None:
        self._history = history
        self._policy = policy
        self._keep_alive = keep_alive
        self._limit_bytes = limit_bytes
        residency = Residency(limit_bytes=UNLIMITED if limit_bytes is None else limit_bytes)
        self._state = Turns(residency=residency, queue_limit=1, turn_seconds=0.0)
        self._tally = Tally(history.requests[0].at)
        self._loaded_at: dict[str, float] = {}
        self._idle = Schedule()
        """When models leave that are not used until then."""

    def run(self, name: str) -> Outcome:
        """Serve all requests, and say what came of it."""
        for request in self._history.requests:
            self._serve(request)
        end = self._history.requests[-1].at
        self._unload_idle(end)
        for model_id, loaded_at in self._loaded_at.items():
            self._tally.stay(self._history.candidates[model_id].bytes, end - loaded_at)
        return self._tally.outcome(name, self._limit_bytes)

    def _serve(self, request: Request) -> None:
        now, model_id = request.at, request.model_id
        self._unload_idle(now)
        candidate = self._history.candidates[model_id]
        cold = model_id not in self._loaded_at
        if cold and not self._load(candidate, now):
            self._tally.refused += 1
            self._tally.request(now, waited=0.0, cold=True)
            return
        ready_at = self._loaded_at[model_id] + candidate.reload_seconds
        self._tally.request(now, waited=max(ready_at - now, 0.0), cold=cold)
        self._policy.fold(Used(at=now, model_id=model_id))
        if self._keep_alive is not None:
            self._keep_alive.used(model_id, now)
            self._idle.set(model_id, now + self._keep_alive.seconds(model_id))

    def _load(self, candidate: Candidate, now: float) -> bool:
        """Load a model, and evict whom the decider chooses. Returns whether it fits at all."""
        start = self._ask(candidate, now)
        if start is None:
            return False
        self._tally.loads += 1
        for model_id in start.evicting:
            self._unload(model_id, now, "evicted")
        model_id, instance_id = candidate.model_id, str(self._tally.loads)
        for event in (
            InstanceLoadStarted(
                node=_NODE,
                model_id=model_id,
                instance_id=instance_id,
                reserved_bytes=start.reserved_bytes,
                context_tokens=0,
                evicting=start.evicting,
            ),
            InstanceLoaded(
                node=_NODE,
                model_id=model_id,
                instance_id=instance_id,
                pid=0,
                resident_bytes=candidate.bytes,
                load_ms=candidate.reload_seconds * 1000,
            ),
            BecameReady(model_id=model_id, now=now, load_seconds=candidate.reload_seconds),
        ):
            self._state = evolve(self._state, event)
        self._loaded_at[model_id] = now
        self._policy.fold(Loaded(at=now, candidate=candidate))
        return True

    def _ask(self, candidate: Candidate, now: float) -> Start | None:
        """What the decider of the service answers to a request for a model that is not loaded."""
        demand = Demand(
            request_id="",
            model_id=candidate.model_id,
            need_bytes=candidate.bytes,
            since=now,
            deadline=math.inf,
        )
        occupancy = self._occupancy(candidate, now)
        try:
            answer = decide(self._state, Ask(request=demand, occupancy=occupancy))
        except NotEnoughMemory:
            return None
        self._state = evolve(self._state, answer)
        return plan(self._state, now=now, occupancy=occupancy).start

    def _occupancy(self, candidate: Candidate, now: float) -> dict[str, Occupancy]:
        """What the decider is told of the residents: the order in which the policy would have them leave."""
        if self._state.residency.reserved_bytes + candidate.bytes <= self._state.residency.limit_bytes:
            return {}
        candidates, worth = self._history.candidates, self._policy.worth
        return {
            model_id: Occupancy(last_used=-math.inf, worth=worth(candidates[model_id], now=now))
            for model_id in self._loaded_at
        }

    def _unload_idle(self, now: float) -> None:
        for model_id, at in self._idle.due(now):
            self._unload(model_id, at, "idle")

    def _unload(self, model_id: str, now: float, reason: UnloadReason) -> None:
        resident = self._state.residency.residents[model_id]
        self._tally.stay(resident.reserved_bytes, now - self._loaded_at.pop(model_id))
        self._idle.drop(model_id)
        self._state = evolve(
            self._state,
            InstanceUnloaded(
                node=_NODE,
                model_id=model_id,
                instance_id=resident.instance_id,
                reason=reason,
                freed_bytes=resident.reserved_bytes,
            ),
        )
        if reason == "evicted":
            self._tally.evictions += 1
            self._policy.fold(Evicted(at=now, candidate=self._history.candidates[model_id]))
        else:
            self._tally.idle_unloads += 1
