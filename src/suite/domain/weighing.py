"""Says what a decision about memory has weighed, and what would have changed it (ADR 46)::

    turn = plan(state, now=now, occupancy=occupancy)
    decision = weigh(state, turn.start.model_id, now=now, occupancy=occupancy)

The alternatives are not guessed: the decider is asked again with one thing changed, and only what changes its
answer is told. That takes some twenty plans at most, and is done once a load, a wait or a refusal, never
with each plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from suite.domain.footprint import NOTHING, Footprint, total_of
from suite.domain.residency import Residency, Resident
from suite.domain.turn_plan import EXCESS, Considered, Planning, only_evicting
from suite.domain.turns import PAUSE_SECONDS, UNUSED, Occupancies, Occupancy, Queue, Request, Turns
from suite.messages.decisions import (
    RAM,
    AnyAlternative,
    Candidate,
    Decision,
    GpuRoom,
    MoreMemory,
    NotPinned,
    NotUsed,
    Purpose,
    Standing,
    UsedLater,
    WorthMore,
)

MOST_CANDIDATES: Final = 32
"""The most models that a decision lists, so that its event stays small."""
MOST_ALTERNATIVES: Final = 4
"""For how many models of a kind it is tried what would have changed the decision."""


def weigh(state: Turns, model_id: str, *, now: float, occupancy: Occupancies, policy: str = "") -> Decision:
    """What is weighed for a model that somebody waits for, as `plan` decides it for the same arguments."""
    return _Weighing(_briefly(state), model_id, now, occupancy).decision(state, policy)


def weigh_excess(state: Turns, *, now: float, occupancy: Occupancies, policy: str = "") -> Decision:
    """What is weighed when all models together need more than the limit."""
    return _Weighing(_briefly(state), EXCESS, now, occupancy).decision(state, policy)


class _Answer(NamedTuple):
    """What the decider says to a state."""

    starts: bool
    waits: bool
    evicting: frozenset[str]
    """Those that are not leaving already."""


def _briefly(state: Turns) -> Turns:
    """The state with one request for all that wait for the same model: it is decided by models."""
    waiting = {model_id: Queue.of([_one_for_all(queue)]) for model_id, queue in state.waiting.items()}
    return msgspec.structs.replace(state, waiting=waiting)


def _one_for_all(queue: Queue) -> Request:
    return msgspec.structs.replace(
        queue.requests[0], deadline=queue.last_deadline, only_evicting=only_evicting(queue)
    )


class _Weighing:
    """One need of memory."""

    def __init__(self, state: Turns, model_id: str, now: float, occupancy: Occupancies) -> None:
        self._state = state
        self._model_id = model_id
        self._now = now
        self._occupancy = occupancy
        self._planning = Planning(state, now, occupancy, watched=model_id)
        self._able = tuple(self._planning.able_to_leave)
        self._answer = self._answer_of(self._planning)
        self._considered = self._planning.considered or self._not_considered()
        queue = state.waiting.get(model_id)
        self._since = queue.rank if queue else math.inf

    def decision(self, whole: Turns, policy: str) -> Decision:
        queue, requests = whole.waiting.get(self._model_id), whole.queue(self._model_id)
        candidates = tuple(self._candidates())
        need_bytes, free_bytes = self._considered.need_bytes, self._considered.free_bytes
        return Decision(
            purpose=self._purpose(requests),
            need_bytes=need_bytes.ram,
            free_bytes=free_bytes.ram,
            limit_bytes=self._state.residency.limit_bytes.ram,
            left_by_others_bytes=self._left_by_others(RAM),
            gpus=tuple(self._gpu_rooms()),
            scarcest=self._scarcest(),
            policy=policy,
            candidates=_at_most(candidates, MOST_CANDIDATES),
            only_evicting=only_evicting(queue) if queue else None,
            more_candidates=max(0, len(candidates) - MOST_CANDIDATES),
            alternatives=tuple(self._alternatives()) if self._model_id != EXCESS else (),
            waiting=len(requests),
            waited_seconds=round(max((self._now - each.since for each in requests), default=0.0), 3),
        )

    def _left_by_others(self, memory: str) -> int | None:
        residency = self._state.residency
        left = residency.admissible_bytes[memory]
        return left if left < residency.limit_bytes[memory] else None

    def _gpu_rooms(self) -> Iterator[GpuRoom]:
        for name, limit_bytes in self._state.residency.limit_bytes.gpus.items():
            yield GpuRoom(
                name=name,
                need_bytes=self._considered.need_bytes[name],
                free_bytes=self._considered.free_bytes[name],
                limit_bytes=limit_bytes,
                left_by_others_bytes=self._left_by_others(name),
            )

    def _scarcest(self) -> str:
        """Of a load, the memory of which it lacks the most; of an excess, that which is over its limit
        most."""
        need_bytes, free_bytes = self._considered.need_bytes, self._considered.free_bytes
        return need_bytes.scarcest(free_bytes) if need_bytes else (NOTHING - free_bytes).largest

    def _purpose(self, requests: Iterable[Request]) -> Purpose:
        if self._model_id == EXCESS:
            return "excess"
        purposes = {each.purpose for each in requests}
        return purposes.pop() if len(purposes) == 1 else "request"

    def _not_considered(self) -> Considered:
        """Of a model that can never be loaded, or that is there already."""
        queue = self._state.waiting.get(self._model_id)
        need_bytes = self._state.need_bytes(queue.requests[0]) if queue else NOTHING
        return Considered(need_bytes, self._planning.free_bytes, self._able, ())

    # --- who could leave ------------------------------------------------------------------------------------

    def _candidates(self) -> Iterator[Candidate]:
        """The models in memory: in the order of leaving, then those that cannot leave."""
        chosen = {each.model_id for each in self._considered.chosen} | self._leaving_for_it()
        able = {each.model_id for each in self._able}
        others = (each for id, each in self._state.residency.residents.items() if id not in able)
        for resident in (*self._able, *others):
            yield self._candidate(resident, is_chosen=resident.model_id in chosen)

    def _leaving_for_it(self) -> frozenset[str]:
        return self._answer.evicting if self._answer.starts else frozenset()

    def _candidate(self, resident: Resident, *, is_chosen: bool) -> Candidate:
        use = self._use(resident.model_id)
        standing = self._standing(resident, use)
        return Candidate(
            model_id=resident.model_id,
            bytes=resident.reserved_bytes.total,
            gpus=dict(resident.reserved_bytes.gpus),
            standing=standing,
            chosen=is_chosen,
            worth=use.worth,
            reload_seconds=use.reload_seconds,
            unused_seconds=0.0 if use.holds else round(max(0.0, self._now - use.last_used), 3),
            uses=use.holds,
            stays_seconds=self._stays(resident, standing, use),
        )

    def _standing(self, resident: Resident, use: Occupancy) -> Standing:
        model_id = resident.model_id
        if use.leaving:
            return "unloading"
        if model_id in self._state.pinned:
            return "pinned"
        if model_id in self._state.serving:
            return "serving"
        if model_id not in self._state.tenures:
            return "preloading" if use.gives_way else "loading"
        if use.holds:
            return "closing" if model_id in self._state.closing else "used"
        if self._is_promised(resident):
            return "promised"
        return "idle" if self._planning.may_leave(resident, self._since) else "kept"

    def _is_promised(self, resident: Resident) -> bool:
        return all(each.model_id != resident.model_id for each in self._considered.able_to_leave)

    def _stays(self, resident: Resident, standing: Standing, use: Occupancy) -> float | None:
        tenure = self._state.tenures.get(resident.model_id)
        if tenure is None:
            return None
        left = tenure.is_idle_at(use.last_used) - self._now
        is_closed = standing == "idle" and resident.model_id in self._state.closing  # it may leave at once
        if standing == "kept" or (standing == "idle" and left > 0 and not is_closed):
            return math.ceil(left * 1000) / 1000  # rounded to 0, one that is kept could leave
        if standing == "used" and math.isfinite(self._since):
            return round(max(0.0, tenure.turn_ends_at(self._since) - self._now), 3)
        return None

    def _use(self, model_id: str) -> Occupancy:
        return self._occupancy.get(model_id, UNUSED)

    # --- what would have changed it -------------------------------------------------------------------------

    def _alternatives(self) -> Iterator[AnyAlternative]:
        yield from self._with_more_memory()
        if self._answer.starts and not self._answer.evicting:
            return
        yield from self._if_others_had_left()
        for resident in self._considered.chosen[:MOST_ALTERNATIVES]:
            yield from self._if_it_had_stayed(resident)

    def _with_more_memory(self) -> Iterator[AnyAlternative]:
        missing = self._missing_bytes()
        if missing:
            answer = self._ask(residency=_enlarged(self._state.residency, missing))
            if self._differs(answer):
                yield MoreMemory(
                    bytes=missing.total,
                    gpus=dict(missing.gpus),
                    starts=answer.starts,
                    evicting=_sorted(answer.evicting),
                )

    def _missing_bytes(self) -> Footprint:
        """How much more memory would have loaded it without an eviction, or at all."""
        need_bytes, free_bytes = self._considered.need_bytes, self._considered.free_bytes
        if self._answer.starts:
            return need_bytes.beyond(free_bytes)
        pinned = (self._state.pinned_bytes(id) for id in self._state.pinned if id != self._model_id)
        never = need_bytes.beyond(self._state.residency.limit_bytes - total_of(pinned))
        idle = total_of(each.reserved_bytes for each in self._able if self._may_leave_now(each))
        return never or need_bytes.beyond(free_bytes + idle)

    def _may_leave_now(self, resident: Resident) -> bool:
        return self._standing(resident, self._use(resident.model_id)) in ("idle", "preloading")

    def _if_others_had_left(self) -> Iterator[AnyAlternative]:
        """If a pinned model had not been pinned, or one in use had not been used."""
        for model_id in islice(self._state.pinned, MOST_ALTERNATIVES):
            pinned = {id: bytes for id, bytes in self._state.pinned.items() if id != model_id}
            answer = self._ask(pinned=pinned)
            if self._differs(answer, model_id):
                yield NotPinned(model_id=model_id, starts=answer.starts, evicting=_sorted(answer.evicting))
        used = (each.model_id for each in self._able if self._use(each.model_id).holds)
        for model_id in islice(used, MOST_ALTERNATIVES):
            use = self._use(model_id)
            unused = min(use.last_used, self._now - PAUSE_SECONDS)
            answer = self._ask({model_id: msgspec.structs.replace(use, holds=0, last_used=unused)})
            if self._differs(answer, model_id):
                yield NotUsed(model_id=model_id, starts=answer.starts, evicting=_sorted(answer.evicting))

    def _if_it_had_stayed(self, resident: Resident) -> Iterator[AnyAlternative]:
        """How much later a model that leaves would have had to be used, or how much more it would have had
        to be worth, for another one to leave instead.
        """
        model_id, use = resident.model_id, self._use(resident.model_id)
        for other in self._next_to_leave():
            worth, last_used = other.worth, other.last_used
            if use.worth is None and worth is None:
                changed = msgspec.structs.replace(use, last_used=math.nextafter(last_used, math.inf))
            elif use.worth is not None and worth is not None:
                changed = msgspec.structs.replace(use, worth=math.nextafter(worth, math.inf))
            else:
                continue
            answer = self._ask({model_id: changed})
            if not answer.starts or model_id in answer.evicting:
                continue
            evicting = _sorted(answer.evicting)
            if worth is None:
                unused_seconds = round(self._now - last_used, 3)
                yield UsedLater(
                    model_id=model_id, unused_seconds=unused_seconds, starts=True, evicting=evicting
                )
            else:
                yield WorthMore(model_id=model_id, worth=worth, starts=True, evicting=evicting)
            return

    def _next_to_leave(self) -> Iterable[Occupancy]:
        """How those are used that could have left as well, in their order."""
        chosen = {each.model_id for each in self._considered.chosen}
        others = (
            self._use(each.model_id)
            for each in self._able
            if each.model_id not in chosen and self._may_leave_now(each)
        )
        return islice(others, MOST_ALTERNATIVES)

    def _differs(self, answer: _Answer, leaves: str = "") -> bool:
        """Whether the model would have been loaded earlier, or into the memory of others."""
        now = self._answer
        if answer.starts and now.starts:
            fewer = answer.evicting < now.evicting
            return fewer or leaves in answer.evicting - now.evicting
        return answer.starts or (answer.waits and not now.waits and not now.starts)

    def _ask(self, uses: Mapping[str, Occupancy] | None = None, **changes: object) -> _Answer:
        """Ask the decider again."""
        state = msgspec.structs.replace(self._state, **changes)
        return self._answer_of(Planning(state, self._now, {**self._occupancy, **(uses or {})}))

    def _answer_of(self, planning: Planning) -> _Answer:
        turn = planning.plan()
        starts = turn.start is not None and turn.start.model_id == self._model_id
        evicting = turn.start.evicting if starts and turn.start is not None else turn.evict
        return _Answer(
            starts=starts,
            waits=all(each.request.model_id != self._model_id for each in turn.refused),
            evicting=frozenset(id for id in evicting if not self._use(id).leaving),
        )


def _enlarged(residency: Residency, more_bytes: Footprint) -> Residency:
    """With so much more memory, of which other programs take nothing."""
    available = residency.available_bytes
    return msgspec.structs.replace(
        residency,
        limit_bytes=residency.limit_bytes + more_bytes,
        available_bytes=None if available is None else available + more_bytes,
    )


def _at_most(candidates: tuple[Candidate, ...], most: int) -> tuple[Candidate, ...]:
    """As many as are listed: those that were chosen, and the first of the others, in their order."""
    others = max(0, most - sum(each.chosen for each in candidates))
    kept = [each.model_id for each in candidates if not each.chosen][:others]
    return tuple(each for each in candidates if each.chosen or each.model_id in kept)


def _sorted(model_ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(model_ids))
