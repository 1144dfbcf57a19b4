"""A node in virtual time: the service's decider of turns (ADR 40), with no process behind it.

A request uses its model for as long as it took in the history, and waits before that: for memory, in the line
of the service, and for the load. Nothing limits how many requests use one model at the same time, and several
loads at once take no longer than one.

With ``instant`` all takes no time: a model is in memory as soon as it is asked for, a request uses it for a
moment, and who comes while it would still be loading waits for the rest of that. Then nobody waits for memory
and only the policy decides who leaves, as in the literature on caches, whose figures can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from suite.domain.footprint import Footprint, total_of
from suite.domain.residency import Residency
from suite.domain.turn_answer import Ask, decide
from suite.domain.turn_plan import plan
from suite.domain.turns import BecameReady, Occupancy, Queued, Start, Turns, evolve, may_leave
from suite.domain.turns import Request as Demand
from suite.errors import NotEnoughMemory, Overloaded
from suite.messages.events import InstanceLoaded, InstanceLoadStarted, InstanceUnloaded, UnloadReason
from suite.prediction.eviction.policy import Candidate, Evicted, EvictionPolicy, Loaded, Used, in_memory
from suite.prediction.keep_alive import KeepAlive
from suite.prediction.replay.agenda import Agenda
from suite.prediction.replay.bettor import RETRY_SECONDS, Bettor
from suite.prediction.replay.history import History, Request
from suite.prediction.replay.outcome import Outcome, Tally

UNLIMITED: Final = 1 << 62
LOAD_WAIT_SECONDS: Final = 300.0
"""How long a request waits for memory: the service's default."""
QUEUE_LIMIT: Final = 64
"""How many requests wait for one model: the service's default."""
_NODE: Final = "replay"


def limits(history: History, limit_bytes: int | None) -> Footprint:
    """What all models may have of each memory: so much RAM, and the GPUs that the history tells of.

    Without a limit there is one memory, in which everything counts.
    """
    return Footprint(UNLIMITED) if limit_bytes is None else Footprint(limit_bytes, history.gpus)


class _Instance:
    """A model that is in memory, or being loaded."""

    __slots__ = ("began_at", "candidate", "holds", "id", "last_used", "leaves_at", "ready_at", "waiting")

    def __init__(self, id: str, candidate: Candidate, now: float) -> None:
        self.id = id
        self.candidate = candidate
        self.began_at = now
        self.ready_at = now + candidate.reload_seconds
        self.waiting: list[Request] | None = []
        """The requests that wait for its load to end; None: it has ended."""
        self.holds = 0
        """The requests that use it, or wait for its load to end."""
        self.last_used = now
        self.leaves_at = math.inf
        """When it leaves if it is not used until then."""


class VirtualNode:
    """Serves a history."""

    def __init__(
        self,
        history: History,
        policy: EvictionPolicy,
        *,
        limit_bytes: int | None,
        keep_alive: KeepAlive | None = None,
        bettor: Bettor | None = None,
        instant: bool = False,
    ) -> None:
        self._history = history
        self._policy = policy
        self._keep_alive = keep_alive
        self._bettor = bettor
        self._limit_bytes = limit_bytes
        self._is_instant = instant
        residency = Residency(limit_bytes=limits(history, limit_bytes))
        self._needs = {
            model_id: each.footprint.counted_in(residency.limit_bytes)
            for model_id, each in history.candidates.items()
        }
        turn_seconds = 0.0 if instant else None
        self._state = Turns(residency=residency, queue_limit=QUEUE_LIMIT, turn_seconds=turn_seconds)
        self._tally = Tally(history)
        self._agenda = Agenda()
        self._instances: dict[str, _Instance] = {}
        """By model."""
        self._queued: dict[str, Request] = {}
        """The requests that wait for memory, by the id that the decider knows."""
        self._is_undecided = False
        """Whether anything has changed since the last plan."""
        self._decides_at = math.inf
        """When to plan again if nothing changes."""

    def run(self, name: str, *, beat: Callable[[], None] = lambda: None) -> Outcome:
        """Serve all requests, and say what came of it. ``beat`` is called with each request."""
        now = self._history.requests[0].at
        if self._bettor is not None:
            self._agenda.add(now, self._take_bets)
        for number, request in enumerate(self._history.requests):
            beat()
            now = request.at
            self._agenda.run(until=now)
            self._serve(request, str(number), now)
        while self._tally.is_serving:
            now = self._agenda.next_at
            self._agenda.run(until=now)
        for instance in self._instances.values():
            self._tally.stay(instance.candidate.bytes, now - instance.began_at)
        if self._bettor is not None:
            self._bettor.expire(now)
            self._tally.bets_won, self._tally.bets_lost = self._bettor.won, self._bettor.lost
        return self._tally.outcome(name, self._limit_bytes)

    # --- requests -------------------------------------------------------------------------------------------

    def _serve(self, request: Request, request_id: str, now: float) -> None:
        """Let a request in, have it wait for memory, or refuse it: as the decider says."""
        demand = Demand(
            request_id=request_id,
            model_id=request.model_id,
            need_bytes=self._needs[request.model_id],
            since=now,
            deadline=now + LOAD_WAIT_SECONDS,
        )
        try:
            answer = decide(self._state, Ask(request=demand, occupancy={}))
        except (NotEnoughMemory, Overloaded):
            self._tally.refuse(request, now)
            return
        if isinstance(answer, Queued):
            self._queued[request_id] = request
            self._state = evolve(self._state, answer)
            self._decide(now)
        else:
            self._let_in(request, now)

    def _let_in(self, request: Request, now: float) -> None:
        instance = self._instances[request.model_id]
        instance.holds += 1
        if self._bettor is not None:
            self._bettor.asked(request.model_id, now)
        if instance.waiting is None:
            self._begin(instance, request, now)
        else:
            instance.waiting.append(request)

    def _begin(self, instance: _Instance, request: Request, now: float) -> None:
        self._tally.begin(request, max(now, instance.ready_at))
        if self._is_instant or not request.seconds:
            self._end(instance, request, now)
        else:
            self._agenda.add(now + request.seconds, partial(self._end_and_decide, instance, request))

    def _end(self, instance: _Instance, request: Request, now: float) -> None:
        model_id = instance.candidate.model_id
        self._tally.end()
        self._policy.fold(Used(at=now, model_id=model_id))
        instance.holds -= 1
        instance.last_used = now
        self._is_undecided = True
        if self._bettor is not None:
            self._bettor.used(model_id, now, conversation=request.group_id)
        if self._keep_alive is not None:
            self._keep_alive.used(model_id, now)
        self._keep(instance, now)

    def _end_and_decide(self, instance: _Instance, request: Request, now: float) -> None:
        self._end(instance, request, now)
        self._decide(now)

    # --- decisions ------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        """Do what the plans of the service's decider say, until there is nothing to do for now."""
        self._is_undecided = True
        while self._is_undecided and self._state.waiting:
            self._is_undecided = False
            turn = plan(self._state, now=now, occupancy=self._occupancy(now))
            self._state = evolve(self._state, turn)
            for demand in turn.served:
                self._let_in(self._queued.pop(demand.request_id), now)
            for refused in turn.refused:
                self._tally.refuse(self._queued.pop(refused.request.request_id), now)
            if turn.start is not None:
                self._start(turn.start, now)
            else:
                self._decide_again_at(turn.due)

    def _decide_again_at(self, due: float) -> None:
        if due < self._decides_at:
            self._decides_at = due
            self._agenda.add(due, self._time_has_come)

    def _time_has_come(self, now: float) -> None:
        if now >= self._decides_at:
            self._decides_at = math.inf
        self._decide(now)

    def _occupancy(self, now: float) -> dict[str, Occupancy]:
        """What the decider is told of the residents, with the order in which the policy has them leave."""
        residency = self._state.residency
        free_bytes = residency.limit_bytes - residency.reserved_bytes
        needs = [self._needs[model_id] for model_id in self._state.waiting]
        if total_of(needs).is_within(free_bytes):
            return {}  # nobody has to leave
        idle = [each.candidate for each in self._instances.values() if not each.holds]
        compared: Sequence[Candidate] = idle
        if free_bytes.gpus:
            compared = in_memory(idle, needs[0].scarcest(free_bytes))
        worths = self._policy.worths(compared, now=now)
        worth = {each.model_id: told for each, told in zip(idle, worths, strict=True)}
        return {id: self._use_of(each, worth.get(id)) for id, each in self._instances.items()}

    def _use_of(self, instance: _Instance, worth: float | None = None) -> Occupancy:
        last_used = -math.inf if self._is_instant else instance.last_used
        return Occupancy(holds=instance.holds, last_used=last_used, worth=worth)

    # --- memory ---------------------------------------------------------------------------------------------

    def _start(self, start: Start, now: float) -> None:
        """Load a model for all that wait for it, and evict whom the decider chose."""
        waiting = [self._queued.pop(each.request_id) for each in self._state.queue(start.model_id)]
        self._tally.cold_start(waiting[0])
        self._load(start, waiting, now)
        self._is_undecided = True

    def _take_bets(self, now: float) -> None:
        """Take the best bet, and weigh the others once it is loaded; after some time if none pays."""
        assert self._bettor is not None
        self._bettor.look(self._instances, now)
        self._leave_if_unlikely(now)
        if self._state.waiting:
            self._agenda.add(now + RETRY_SECONDS, self._take_bets)
            return
        idle = [
            id
            for id, each in self._instances.items()
            if may_leave(self._state, id, now=now, use=self._use_of(each))
        ]
        free_bytes = self._state.residency.limit_bytes - self._state.residency.reserved_bytes
        bet = self._bettor.take(self._instances, idle, free_bytes, now)
        if bet is None:
            self._agenda.add(now + self._bettor.pause_seconds(now), self._take_bets)
            return
        candidate = bet.candidate
        start = Start(
            model_id=candidate.model_id,
            reserved_bytes=self._needs[candidate.model_id],
            evicting=bet.evicting,
        )
        self._load(start, [], now)
        self._agenda.add(now if self._is_instant else now + candidate.reload_seconds, self._take_bets)

    def _load(self, start: Start, waiting: list[Request], now: float) -> None:
        for model_id in start.evicting:
            self._unload(model_id, now, "evicted")
        self._tally.loads += 1
        candidate = self._history.candidates[start.model_id]
        instance = _Instance(str(self._tally.loads), candidate, now)
        instance.waiting, instance.holds = waiting, len(waiting)
        self._instances[start.model_id] = instance
        self._state = evolve(
            self._state,
            InstanceLoadStarted(
                node=_NODE,
                model_id=start.model_id,
                instance_id=instance.id,
                reserved_bytes=start.reserved_bytes.total,
                gpus=dict(start.reserved_bytes.gpus),
                context_tokens=0,
                evicting=start.evicting,
            ),
        )
        if self._is_instant:
            self._ready(instance, now)
        else:
            self._agenda.add(instance.ready_at, partial(self._ready_and_decide, instance))

    def _ready(self, instance: _Instance, now: float) -> None:
        candidate = instance.candidate
        for event in (
            InstanceLoaded(
                node=_NODE,
                model_id=candidate.model_id,
                instance_id=instance.id,
                pid=0,
                resident_bytes=candidate.footprint.ram,
                gpu_bytes=sum(candidate.gpus.values()),
                gpus=dict(candidate.gpus),
                load_ms=candidate.reload_seconds * 1000,
            ),
            BecameReady(model_id=candidate.model_id, now=now, load_seconds=candidate.reload_seconds),
        ):
            self._state = evolve(self._state, event)
        self._policy.fold(Loaded(at=now, candidate=candidate))
        waiting, instance.waiting = instance.waiting or [], None
        self._keep(instance, now)
        for request in waiting:
            self._begin(instance, request, now)

    def _ready_and_decide(self, instance: _Instance, now: float) -> None:
        self._ready(instance, now)
        self._decide(now)

    def _keep(self, instance: _Instance, now: float) -> None:
        """Have a model leave in time if it is not used until then."""
        if self._keep_alive is not None:
            instance.leaves_at = now + self._keep_alive.seconds(instance.candidate.model_id)
            self._agenda.add(instance.leaves_at, partial(self._leave_unused, instance))

    def _leave_unused(self, instance: _Instance, now: float) -> None:
        is_there = self._instances.get(instance.candidate.model_id) is instance
        if is_there and self._may_idle_out(instance, now):
            self._unload(instance.candidate.model_id, now, "idle")
            self._decide(now)

    def _leave_if_unlikely(self, now: float) -> None:
        """Have those leave that stayed as they were likely to be used."""
        for instance in list(self._instances.values()):
            self._leave_unused(instance, now)

    def _may_idle_out(self, instance: _Instance, now: float) -> bool:
        if instance.holds or instance.waiting is not None or instance.leaves_at > now:
            return False
        return self._bettor is None or not self._bettor.keeps(instance.candidate.model_id, now)

    def _unload(self, model_id: str, now: float, reason: UnloadReason) -> None:
        instance = self._instances.pop(model_id)
        candidate = instance.candidate
        self._tally.stay(candidate.bytes, now - instance.began_at)
        if self._bettor is not None:
            self._bettor.left(model_id, now)
        self._state = evolve(
            self._state,
            InstanceUnloaded(
                node=_NODE,
                model_id=model_id,
                instance_id=instance.id,
                reason=reason,
                freed_bytes=candidate.bytes,
            ),
        )
        if reason == "evicted":
            self._tally.evictions += 1
            self._policy.fold(Evicted(at=now, candidate=candidate))
        else:
            self._tally.idle_unloads += 1
