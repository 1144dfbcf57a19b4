"""Makes the decisions of a log again: by the same decider, with what the policy had learned by then.

What a service decides from is either in the log, such as uses and loads, or in the record of the decision,
such as which models were in use at that moment. So the same models leave again; where they do not, a policy
is not deterministic, or the log has lost events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

from suite.domain.footprint import Footprint, total_of
from suite.domain.residency import Residency, Resident
from suite.domain.turn_plan import plan
from suite.domain.turns import Occupancy, Queue, Request, Tenure, Turns
from suite.messages.decisions import Candidate, Decision, GpuRoom, PolicyState
from suite.messages.envelope import Recorded
from suite.messages.events import InstanceLoadStarted, UnknownEvent
from suite.prediction.eviction import policy as eviction
from suite.prediction.eviction.appraiser import Appraiser
from suite.prediction.eviction.guarded import Watch
from suite.prediction.eviction.policies import policy
from suite.prediction.recent import RecentIds

CALL_SECONDS: Final = 2.0
_LONG_SECONDS: Final = 1e9
_KEPT: Final = ""
"""Stands for the models that memory was kept for."""


class DecidedAgain(msgspec.Struct, frozen=True, kw_only=True):
    """A decision of a log and what comes of it when it is made again."""

    seq: int
    time: datetime
    model_id: str
    policy: str
    recorded: tuple[str, ...]
    """The models that left."""
    evicting: tuple[str, ...] | None
    """Those that leave now; None: it would not be loaded."""
    recorded_worth: Mapping[str, float]
    worth: Mapping[str, float]
    """By model, of those that the policy was asked about."""

    @property
    def agrees(self) -> bool:
        """Whether all is the same."""
        return self.recorded == self.evicting and self.recorded_worth == self.worth


def decide_again(events: Sequence[Recorded], node: str) -> Iterator[DecidedAgain]:
    """Every decision of a node to load a model, with the policies' names as they were then.

    `events` is the whole log, or all of it that is left. Left out are decisions that cannot be made again
    (see `is_whole`), those of versions that did not record what they weighed, and those from before the log
    lost what their policy had learned from.
    """
    learning = _Learning(events, node)
    for event in events:
        match event.data:
            case InstanceLoadStarted(
                node=at, decision=Decision(policy_state=PolicyState() as state) as decision
            ) if at == node and is_whole(decision) and learning.has(state):
                yield _again(event, event.data, decision, learning)


def is_whole(decision: Decision) -> bool:
    """Whether a record has all that the decider needs.

    It has not if more models were in memory than it lists, or if they needed more than the limit together, so
    that some had to leave for nobody in particular.
    """
    staying = total_of(_bytes_of(each) for each in decision.candidates if each.standing != "unloading")
    return not decision.more_candidates and staying.is_within(_limit(decision))


def evicted_again(model_id: str, decision: Decision, worth: Mapping[str, float]) -> tuple[str, ...] | None:
    """Which models leave for one, by the decider of the service; None: it is not loaded."""
    occupancy = {each.model_id: _occupancy(each, worth.get(each.model_id)) for each in decision.candidates}
    start = plan(_state(model_id, decision), now=0.0, occupancy=occupancy).start
    return None if start is None else start.evicting


def _again(
    event: Recorded, started: InstanceLoadStarted, decision: Decision, learning: _Learning
) -> DecidedAgain:
    worth = learning.worth(decision)
    return DecidedAgain(
        seq=event.seq,
        time=event.time,
        model_id=started.model_id,
        policy=decision.policy,
        recorded=started.evicting,
        evicting=evicted_again(started.model_id, decision, worth),
        recorded_worth={each.model_id: each.worth for each in decision.candidates if each.worth is not None},
        worth=worth,
    )


def _appraised(decision: Decision) -> list[Candidate]:
    return [each for each in decision.candidates if each.worth is not None]


class _Learning:
    """The policies of a log, each with what it had learned by a decision."""

    def __init__(self, events: Sequence[Recorded], node: str) -> None:
        seen = RecentIds()
        self._events = [
            each
            for each in events
            if not isinstance(each.data, UnknownEvent)
            and each.data.aggregate in Appraiser.aggregates
            and not seen.is_copy(each.id)
        ]
        self._seqs = {each.seq for each in self._events}
        self._node = node
        self._appraiser: Appraiser | None = None
        self._made: tuple[str, Footprint, int] | None = None
        self._next = 0

    def has(self, state: PolicyState) -> bool:
        """Whether the first event is there that a policy had learned from: those after it live longer."""
        return not state.first_seq or state.first_seq in self._seqs

    def worth(self, decision: Decision) -> Mapping[str, float]:
        """What the policy says of the candidates that it was asked about."""
        assert decision.policy_state is not None
        appraiser = self._at(decision.policy, decision.policy_state)
        candidates = [
            eviction.Candidate(
                model_id=each.model_id,
                bytes=_bytes_of(each)[decision.policy_state.memory],
                reload_seconds=each.reload_seconds or 0.0,
            )
            for each in _appraised(decision)
        ]
        return appraiser.worth(candidates, decision.policy_state.at)

    def _at(self, name: str, state: PolicyState) -> Appraiser:
        limit = Footprint(state.limit_bytes, state.gpus)
        made = (name, limit, state.first_seq)
        if self._appraiser is None or made != self._made or self._appraiser.last_seq > state.last_seq:
            made_again = policy(name, limit, Watch(CALL_SECONDS))
            self._appraiser = Appraiser(self._node, made_again, limit_bytes=limit)
            self._made, self._next = made, 0
        while self._next < len(self._events) and self._events[self._next].seq <= state.last_seq:
            event = self._events[self._next]
            if event.seq >= state.first_seq:
                self._appraiser.fold(event)
            self._next += 1
        return self._appraiser


# --- the state that was decided from ----------------------------------------------------------------------


def _state(model_id: str, decision: Decision) -> Turns:
    """The memory at the decision, which is moment 0, with only this model waiting."""
    request = Request(
        request_id="",
        model_id=model_id,
        need_bytes=_room(decision, lambda each: each.need_bytes),
        since=-decision.waited_seconds,
        deadline=math.inf,
        only_evicting=decision.only_evicting,
    )
    candidates = decision.candidates
    residents = {each.model_id: _resident(each) for each in candidates}
    return Turns(
        residency=Residency(
            limit_bytes=_limit(decision),
            residents=residents,
            available_bytes=_admissible(decision),
        ),
        waiting={model_id: Queue.of([request])},
        tenures={each.model_id: _tenure(each) for each in candidates if not _is_loading(each)},
        closing=frozenset(each.model_id for each in candidates if _is_closed(each)),
        pinned=_pinned(decision),
        queue_limit=1,
    )


def _resident(candidate: Candidate) -> Resident:
    return Resident(
        model_id=candidate.model_id,
        instance_id="",
        phase="loading" if _is_loading(candidate) else "loaded",
        reserved_bytes=_bytes_of(candidate),
    )


def _is_loading(candidate: Candidate) -> bool:
    return candidate.standing in ("loading", "preloading")


def _tenure(candidate: Candidate) -> Tenure:
    """One by which the model may leave only if it could: at once, or for one that has waited for a turn."""
    has_had_its_turn = candidate.standing == "idle"
    return Tenure(
        ready_at=0.0,
        stay_seconds=candidate.stays_seconds or 0.0,
        turn_seconds=-_LONG_SECONDS if has_had_its_turn else _LONG_SECONDS,
    )


def _is_closed(candidate: Candidate) -> bool:
    """Whether it leaves as soon as it is unused, whatever its tenure says."""
    is_free_to_leave = candidate.standing == "idle" and candidate.stays_seconds is None
    return is_free_to_leave or candidate.standing == "closing"


def _pinned(decision: Decision) -> dict[str, Footprint]:
    """What cannot leave, and the memory that was kept for others."""
    candidates = decision.candidates
    pinned = {
        each.model_id: _bytes_of(each)
        for each in candidates
        if each.standing in ("pinned", "serving", "promised")
    }
    free = _room(decision, lambda each: each.free_bytes)
    kept = (_admissible(decision) - _present_bytes(decision)).beyond(free)
    return pinned | ({_KEPT: kept} if kept else {})


def _present_bytes(decision: Decision) -> Footprint:
    """What was not about to be freed."""
    present = (each for each in decision.candidates if each.standing != "unloading" or each.uses)
    return total_of(_bytes_of(each) for each in present)


def _bytes_of(candidate: Candidate) -> Footprint:
    return Footprint.of(candidate.bytes, candidate.gpus)


def _room(decision: Decision, bytes_of: Callable[[Decision | GpuRoom], int]) -> Footprint:
    """A number of each memory."""
    return Footprint(bytes_of(decision), {each.name: bytes_of(each) for each in decision.gpus})


def _limit(decision: Decision) -> Footprint:
    return _room(decision, lambda each: each.limit_bytes)


def _admissible(decision: Decision) -> Footprint:
    def left(room: Decision | GpuRoom) -> int:
        left = room.left_by_others_bytes
        return room.limit_bytes if left is None else left

    return _room(decision, left)


def _occupancy(candidate: Candidate, worth: float | None) -> Occupancy:
    return Occupancy(
        holds=candidate.uses or int(candidate.standing in ("used", "closing")),
        last_used=-candidate.unused_seconds,
        worth=worth,
        gives_way=candidate.standing == "preloading",
        leaving=candidate.standing == "unloading",
    )
