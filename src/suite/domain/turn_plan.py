"""Plans whose turn it is: which model is loaded next, which leave for it, who has waited in vain.

The models that wait are gone through in their order. Each takes what memory is free, and then the models that
leave for it, so that those behind it can only have what it does not need. A model behind may be loaded before
one in front of it, but it never delays it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple

from suite.domain.footprint import NOTHING, Footprint, total_of
from suite.domain.residency import Resident
from suite.domain.turn_answer import never_fits, refusal
from suite.domain.turns import (
    UNUSED,
    Occupancies,
    Place,
    Plan,
    Queue,
    Refused,
    Request,
    Start,
    Turns,
)
from suite.errors import SuiteError

EXCESS: Final = ""
"""Stands for the model that models leave for if all together need more than the limit."""


def plan(state: Turns, *, now: float, occupancy: Occupancies) -> Plan:
    """What is to happen now: at most one load is started."""
    return Planning(state, now, occupancy).plan()


class Considered(NamedTuple):
    """What was weighed for one need of memory."""

    need_bytes: Footprint
    free_bytes: Footprint
    """What nobody had, nor anybody in front needed."""
    able_to_leave: Sequence[Resident]
    """The models that could leave, in their order, without those that leave for others in front."""
    chosen: Sequence[Resident]


class Planning:
    """One plan while it is being made."""

    def __init__(
        self, state: Turns, now: float, occupancy: Occupancies, *, watched: str | None = None
    ) -> None:
        """`watched`: the model whose need of memory is to be remembered, or `EXCESS`."""
        self._state = state
        self._now = now
        self._occupancy = occupancy
        residents = state.residency.residents
        self._uses = {id: occupancy.get(id, UNUSED) for id in residents}
        self._staying = {id: each for id, each in residents.items() if not self._uses[id].leaving}
        leaving = [id for id in residents if id not in self._staying]
        self._draining = {id: residents[id] for id in leaving if self._uses[id].holds}
        """What leaves once it is unused: that may take long."""
        kept = total_of([bytes_ for id, bytes_ in state.pinned.items() if id not in residents])
        reserved = _bytes_of(self._staying.values())
        self._pinned_bytes = total_of(map(state.pinned_bytes, state.pinned))
        self._reserved = reserved
        """By those that stay."""
        draining = _bytes_of(self._draining.values())
        self._admissible_bytes = state.residency.admissible_bytes
        self.free_bytes = self._admissible_bytes - reserved - draining - kept
        """Bytes that nobody uses now."""
        self._attainable_bytes = self._admissible_bytes - self._pinned_bytes
        """Bytes that there would be once all have left that may ever leave."""
        self._room = self.free_bytes
        """Bytes that nobody in front needs, once those who leave for them have left."""
        self._waits_for: dict[str, tuple[str, ...]] = {}
        self._closing: set[str] = set()
        self._evict: list[str] = []
        self._refused: list[Refused] = []
        self._never_fits: set[str] = set()
        self._due = math.inf
        self._watched = watched
        self.considered: Considered | None = None
        """What was weighed for the watched model."""
        present = self._staying | self._draining
        self._idle_at = {id: self._when_idle(each) for id, each in present.items()}
        """From when on models may leave for whoever waits, as they are used now; infinite: for nobody."""
        able = [each for id, each in present.items() if id not in state.pinned and not self._serves(id)]
        self._able = {each.model_id: each for each in sorted(able, key=self._order_of_leaving)}

    @property
    def able_to_leave(self) -> Sequence[Resident]:
        """The models that could leave for those that were not considered yet, in their order."""
        return tuple(self._able.values())

    def _serves(self, model_id: str) -> bool:
        """Whether a model stays because another version is being promoted, and is not leaving anyway."""
        return model_id in self._state.serving and model_id in self._staying

    def plan(self) -> Plan:
        """Decide; once for each planning."""
        self._give_back_excess()
        queues = sorted(self._state.waiting.items(), key=lambda item: item[1].rank)
        for model_id, queue in queues:
            if model_id in self._staying:
                continue
            start = self._consider(model_id, queue)
            if start is not None:
                # What else is due is seen once this load has begun.
                closing = (self._state.closing | self._closing) - set(start.evicting)
                return Plan(start=start, evict=tuple(self._evict), closing=closing)
        served = {id: queue for id, queue in queues if id in self._staying and id not in self._closing}
        left = [id for id, queue in queues if id not in served and self._goes_on(queue)]
        return Plan(
            served=tuple(chain.from_iterable(queue.requests for queue in served.values())),
            refused=tuple(self._refused),
            evict=tuple(self._evict),
            closing=frozenset(self._closing),
            places={
                id: Place(place=place, waits_for=self._waits_for.get(id, ()))
                for place, id in enumerate(left, 1)
            },
            due=self._due,
        )

    def _give_back_excess(self) -> None:
        """Let models leave if those that are there turned out to need more than the limit together.

        Each stays for its least time first, unless the machine does not have what they need.
        """
        limit_bytes = self._state.residency.limit_bytes
        if self._reserved.is_within(limit_bytes):
            return
        chosen, _ = self._choose(self._reserved.beyond(limit_bytes), NOTHING, among=self._staying)
        if self._watched == EXCESS:
            self._note(NOTHING, limit_bytes - self._reserved, chosen)
        self._take(chosen)
        self._room += _bytes_of(chosen)
        for each in chosen:
            self._give_back(each)

    def _give_back(self, resident: Resident) -> None:
        model_id, use = resident.model_id, self._uses[resident.model_id]
        tenure = self._state.tenures.get(model_id)
        if self.may_leave(resident, math.inf):
            self._evict.append(model_id)
        elif tenure is None:
            return  # when it is ready, there is a new plan
        elif use.holds:
            self._closing.add(model_id)
        elif self._is_short_of_memory():
            self._evict.append(model_id)
        else:
            self._look_again_at(tenure.is_idle_at(use.last_used))

    def _is_short_of_memory(self) -> bool:
        """Whether the machine does not have what the models that stay need."""
        available = self._state.residency.available_bytes
        return available is not None and not self._reserved.is_within(available)

    def _consider(self, model_id: str, queue: Queue) -> Start | None:
        """Load the model if that is possible now, or else see to it that it will be."""
        need_bytes = self._state.need_bytes(queue.requests[0])
        could_fit = self._could_fit(model_id, need_bytes)
        if not could_fit and self._refuse_for_ever(model_id, need_bytes, queue):
            return None
        is_gone = model_id not in self._state.residency.residents
        kept_bytes = self._state.pinned.get(model_id) if is_gone else None
        free_bytes = self.free_bytes.at_most(self._room)
        if kept_bytes is not None:
            free_bytes += kept_bytes
        if model_id in self._able:  # it is draining, and has the memory that it needs
            self._able = {model_id: self._able[model_id], **self._able}
        chosen, is_enough = self._choose(need_bytes, free_bytes, among=only_evicting(queue))
        if model_id == self._watched:
            self._note(need_bytes, free_bytes, chosen)
        if is_enough and is_gone and all(self.may_leave(each, queue.rank) for each in chosen):
            return self._start(model_id, need_bytes, chosen)
        if queue.last_deadline <= self._now:
            return None  # it will be refused, so nobody has to leave for it
        if not could_fit:
            return None  # other programs use too much, so that it keeps no place from those behind it
        self._take(chosen)
        if is_enough:
            taken_bytes = need_bytes if kept_bytes is None else need_bytes.beyond(kept_bytes)
            self._room = self._room + _bytes_of(chosen) - taken_bytes
            for each in chosen:
                self._close(each, queue.rank)
        self._waits_for[model_id] = tuple([each.model_id for each in chosen])
        return None

    def _note(self, need_bytes: Footprint, free_bytes: Footprint, chosen: Sequence[Resident]) -> None:
        self.considered = Considered(need_bytes, free_bytes, self.able_to_leave, chosen)

    def _could_fit(self, model_id: str, need_bytes: Footprint) -> bool:
        """Whether there would be memory once all have left that may ever leave."""
        attainable_bytes = self._attainable_bytes - self._state.serving_bytes(besides=model_id)
        if model_id in self._state.pinned:
            attainable_bytes += self._state.pinned_bytes(model_id)
        return need_bytes.is_within(attainable_bytes)

    def _start(self, model_id: str, need_bytes: Footprint, chosen: list[Resident]) -> Start:
        """A load, and all whose memory it has to wait for: those that are leaving already come first."""
        residents = self._state.residency.residents
        room = self._admissible_bytes - self._state.residency.reserved_bytes + _bytes_of(chosen)
        leaving: list[str] = []
        for each in residents.values():
            if need_bytes.is_within(room):
                break
            missing = need_bytes.beyond(room)
            is_staying = each.model_id in self._staying or each.model_id in self._draining
            is_leaving = not is_staying or each.model_id in self._evict
            if is_leaving and each.reserved_bytes.eases(missing):
                leaving.append(each.model_id)
                room += each.reserved_bytes
        evicting = (*leaving, *(each.model_id for each in chosen))
        return Start(model_id=model_id, reserved_bytes=need_bytes, evicting=evicting)

    # --- who leaves -----------------------------------------------------------------------------------------

    def _choose(
        self, need_bytes: Footprint, room: Footprint, *, among: Collection[str] | None = None
    ) -> tuple[list[Resident], bool]:
        """The models that leave so that there is room for so many bytes, and whether they are enough: if not,
        all that could help. One that frees nothing where memory is missing does not help.
        """
        chosen: list[Resident] = []
        if need_bytes.is_within(room):
            return chosen, True
        missing = need_bytes.beyond(room)
        able = self._able.values()
        for each in able if among is None else [each for each in able if each.model_id in among]:
            if each.reserved_bytes.eases(missing):
                chosen.append(each)
                room += each.reserved_bytes
                if need_bytes.is_within(room):
                    return self._without_the_unnecessary(chosen, need_bytes, room), True
                missing = need_bytes.beyond(room)
        return chosen, False

    def _without_the_unnecessary(
        self, chosen: list[Resident], need_bytes: Footprint, room: Footprint
    ) -> list[Resident]:
        """Those without which there would not be room: a large one may make small ones in front needless."""
        if len(chosen) == 1:
            return chosen
        kept = []
        for each in chosen:
            left = room - each.reserved_bytes
            if need_bytes.is_within(left):
                room = left
            else:
                kept.append(each)
        return kept

    def _take(self, chosen: Collection[Resident]) -> None:
        """Have these leave for nobody else."""
        for each in chosen:
            del self._able[each.model_id]

    def _close(self, resident: Resident, waiting_since: float) -> None:
        """Close a model once it had its turn while another waited; see when that will be."""
        tenure = self._state.tenures.get(resident.model_id)
        if tenure is None or resident.model_id in self._draining:
            return  # when it is ready, or unused, there is a new plan
        if resident.model_id in self._state.closing:
            self._closing.add(resident.model_id)  # also while it is unused: it must not begin anew
        elif (ends_at := tenure.turn_ends_at(waiting_since)) <= self._now:
            self._closing.add(resident.model_id)
        else:
            self._look_again_at(ends_at)
            self._look_again_at(self._idle_at[resident.model_id])

    def _order_of_leaving(self, resident: Resident) -> tuple[int, float]:
        """What leaves first: what can at once, the load of a bet, what is leaving or closes already, what is
        unused, what is used, another load.

        What can leave at once goes by its worth, which is that of the memory that is the scarcest for the
        first of those who wait (`scarcest`). For those behind it the same order holds.
        """
        model_id = resident.model_id
        tenure, use = self._state.tenures.get(model_id), self._uses[model_id]
        idle_at = self._idle_at[model_id]
        if model_id in self._draining:
            return 2, -math.inf
        if tenure is None:
            return 1 if use.gives_way else 5, 0.0
        if idle_at <= self._now:
            return 0, use.last_used if use.worth is None else use.worth
        if model_id in self._state.closing:
            return 2, tenure.ready_at
        if use.holds:
            return 4, tenure.turn_ends_at(-math.inf)
        return 3, idle_at

    def may_leave(self, resident: Resident, waiting_since: float) -> bool:
        """Whether a model may leave now for one that has been waiting since then."""
        idle_at = self._idle_at[resident.model_id]
        if idle_at <= self._now:
            return True
        tenure = self._state.tenures.get(resident.model_id)
        return idle_at < math.inf and tenure is not None and tenure.turn_ends_at(waiting_since) <= self._now

    def _when_idle(self, resident: Resident) -> float:
        tenure, use = self._state.tenures.get(resident.model_id), self._uses[resident.model_id]
        if tenure is None:
            return -math.inf if use.gives_way and not use.leaving else math.inf
        if use.holds:
            return math.inf
        return -math.inf if resident.model_id in self._state.closing else tenure.is_idle_at(use.last_used)

    # --- who has waited in vain -----------------------------------------------------------------------------

    def _goes_on(self, queue: Queue) -> bool:
        """Refuse the requests whose time is over. Returns whether others wait for this model."""
        requests = queue.requests
        if requests[0].model_id in self._never_fits:
            return False
        if queue.first_deadline > self._now:
            self._look_again_at(queue.first_deadline)
            return True
        self._refuse(
            (each for each in requests if each.deadline <= self._now),
            refusal(self._state, requests[0], self._occupancy),
        )
        left = [each.deadline for each in requests if each.deadline > self._now]
        self._look_again_at(min(left, default=math.inf))
        return bool(left)

    def _refuse_for_ever(self, model_id: str, need_bytes: Footprint, queue: Queue) -> bool:
        """Refuse all who wait for a model if it can never be loaded, as things stand. Returns whether."""
        error = never_fits(self._state, model_id, need_bytes, smaller=queue.requests[0].smaller)
        if error is None:
            return False
        self._never_fits.add(model_id)
        self._refuse(queue.requests, error)
        return True

    def _refuse(self, requests: Iterable[Request], error: SuiteError) -> None:
        self._refused += (Refused(request=each, error=error.copy()) for each in requests)

    def _look_again_at(self, time: float) -> None:
        if self._now < time < self._due:
            self._due = time


def only_evicting(queue: Queue) -> tuple[str, ...] | None:
    """Which models may leave for those who wait for a model; None: any, as one of them may have any leave."""
    allowed: dict[str, None] = {}
    for each in queue.requests:
        if each.only_evicting is None:
            return None
        allowed.update(dict.fromkeys(each.only_evicting))
    return tuple(allowed)


def _bytes_of(residents: Iterable[Resident]) -> Footprint:
    each_bytes = [each.reserved_bytes for each in residents]
    return each_bytes[0] if len(each_bytes) == 1 else total_of(each_bytes)
