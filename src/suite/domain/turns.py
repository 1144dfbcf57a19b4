"""Decides who gets a node's memory when: a load that does not fit now waits for its turn (ADR 40).

    answer = decide(state, Ask(request=request, occupancy=occupancy))  # `suite.domain.turn_answer`
    state = evolve(state, answer)                             # it is served, or waits
    turn = plan(state, now=now, occupancy=occupancy)          # who is next (`suite.domain.turn_plan`)
    state = evolve(state, turn)

Requests wait by model: one load serves all that wait for it. The models get their turns in the order of their
longest waiting request, where a step of priority counts as ten seconds of waiting. To make room, idle models
leave, first those whose memory an eviction policy finds worth the least, or without one the least recently
used. Where these are not enough, a model that is in use closes once it had its turn: what it has begun goes
on, new requests for it wait in the line behind the others, and it leaves as soon as it is unused. A request
for a loaded model that does not close never waits.

Nothing leaves that is loading for somebody, used, pinned, that serves under an alias to which another version
is being promoted, or that was loaded only just before. So a model that was waited for is still there when
those who waited come to use it, and two models do not drive each other out more often than their loads are
worth.

Which requests use a model is not part of the state; each decision is given the occupancy of that moment.
Times are in seconds of any one clock.
"""

from __future__ import annotations

import math
from bisect import insort_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TypeAlias, TypeVar

import msgspec

from suite.domain import residency as residents
from suite.domain.footprint import NOTHING, Footprint, total_of
from suite.domain.residency import Residency
from suite.errors import SuiteError
from suite.messages.decisions import RAM, Decision, Purpose
from suite.messages.events import Event, InstanceEvent, InstanceLoaded, InstanceLoadStarted

PRIORITY_SECONDS = 10.0
"""How many seconds of waiting one step of priority counts as, here and in the queue of a model's slots."""
LOADS_A_TURN = 2
LEAST_TURN_SECONDS = 1.25
LONGEST_TURN_SECONDS = 60.0
"""Unless it is configured, a turn is so many times as long as the load before it took, within these limits.
Then loading takes about a third of the time, however many models take turns. The shortest turn is as long as
a standby process needs to be ready for the next load, which takes several times as long without one."""
LONGEST_STAY_SECONDS = 10.0
"""A model stays at least as long as its load took, or a turn if that is shorter, but no longer than this."""
PAUSE_SECONDS = 0.2
"""Before its turn is over, a model leaves only when it was unused for so long: a client that asks again as
soon as it was answered does so within this time."""


# --- state ------------------------------------------------------------------------------------------------


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody wants to use a model."""

    request_id: str
    model_id: str
    need_bytes: Footprint
    """The memory of the model: estimated, or what it was measured to grow to."""
    growth_bytes: Footprint = NOTHING
    """The part of it that the model was measured to need only after it was ready: it can do without."""
    smaller: str = ""
    """Which settings of the model would make it fit into the limit, as in TOML; empty if none does."""
    since: float
    deadline: float
    """Until when it may wait for memory. The load itself is not limited by it."""
    priority: int = 0
    only_evicting: tuple[str, ...] | None = None
    """Only these models may leave for it; None: any that may leave at all."""
    purpose: Purpose = "request"

    @property
    def rank(self) -> float:
        """Its place in the order of waiting; the smallest is first."""
        return self.since - PRIORITY_SECONDS * self.priority


class Queue(msgspec.Struct, frozen=True):
    """Those who wait for one model, and what each plan needs to know of all of them."""

    requests: tuple[Request, ...]
    """In the order of their ranks; never empty."""
    rank: float
    """That of the first."""
    first_deadline: float
    last_deadline: float

    @classmethod
    def of(cls, requests: Sequence[Request]) -> Queue:
        """Requests that are in their order already."""
        deadlines = [each.deadline for each in requests]
        return cls(tuple(requests), requests[0].rank, min(deadlines), max(deadlines))

    def joined_by(self, request: Request) -> Queue:
        """With one more, behind those of the same rank."""
        requests = list(self.requests)
        insort_right(requests, request, key=attrgetter("rank"))
        return Queue(
            tuple(requests),
            requests[0].rank,
            min(self.first_deadline, request.deadline),
            max(self.last_deadline, request.deadline),
        )

    def without(self, request_ids: Collection[str]) -> Queue | None:
        """Those that are left; None if nobody is."""
        left = [each for each in self.requests if each.request_id not in request_ids]
        return Queue.of(left) if left else None


class Tenure(msgspec.Struct, frozen=True, kw_only=True):
    """Since when a model is ready, and how long it stays from then on while others wait."""

    ready_at: float
    stay_seconds: float
    """At least, even if it is not used."""
    turn_seconds: float
    """At most, from when another began to wait."""

    def is_idle_at(self, last_used: float) -> float:
        """When it may leave for another model, if it is not used any more."""
        return max(self.ready_at + self.stay_seconds, last_used + PAUSE_SECONDS)

    def turn_ends_at(self, waiting_since: float) -> float:
        """When it has to leave for a model that has been waiting since then."""
        return max(self.ready_at, waiting_since) + self.turn_seconds


class Turns(msgspec.Struct, frozen=True, kw_only=True):
    """The state: who has memory, and who waits for it."""

    residency: Residency
    waiting: Mapping[str, Queue] = {}
    """By model."""
    tenures: Mapping[str, Tenure] = {}
    """Of the loaded models."""
    closing: frozenset[str] = frozenset()
    """The models in use that leave as soon as what they have begun is done."""
    pinned: Mapping[str, Footprint] = {}
    """The memory that the pinned models need at least. It is kept for them also while they are not loaded."""
    serving: Mapping[str, str] = {}
    """The models that leave for no other one while they are in memory, as they serve under aliases to which
    other versions are being promoted: each with its alias. Unlike pins that ends by itself, so nobody is
    refused for it who may wait."""
    measured: Mapping[str, Measured] = {}
    queue_limit: int
    """How many requests may wait for one model."""
    turn_seconds: float | None = None
    """How long a turn is; None: see `LOADS_A_TURN`."""

    def queue(self, model_id: str) -> tuple[Request, ...]:
        """Those who wait for a model, in their order."""
        queue = self.waiting.get(model_id)
        return () if queue is None else queue.requests

    def need_bytes(self, request: Request) -> Footprint:
        """The memory to reserve for a request's model: estimated, or measured if that was more."""
        peak_bytes = request.need_bytes
        measured = self.measured.get(request.model_id)
        if measured is None and not request.growth_bytes:
            return peak_bytes
        ready_bytes = peak_bytes - request.growth_bytes
        if measured is not None and measured.estimated_bytes == request.need_bytes:
            ready_bytes = ready_bytes.at_least(measured.resident_bytes)
        return self.granted_bytes(request.model_id, ready_bytes, peak_bytes)

    def granted_bytes(self, model_id: str, ready_bytes: Footprint, peak_bytes: Footprint) -> Footprint:
        """The memory to reserve for a model that grows: what pins and other programs leave of its peak.

        So it is not kept out by what it grew to, as long as it fits when it is ready: caches give way.
        """
        pinned = total_of([self.pinned_bytes(each) for each in self.pinned if each != model_id])
        staying = pinned + self.serving_bytes(besides=model_id)
        return ready_bytes.at_least(peak_bytes.at_most(self.residency.admissible_bytes - staying))

    def pinned_bytes(self, model_id: str) -> Footprint:
        """The memory that is kept for a pinned model; nothing if it is not pinned."""
        if model_id not in self.pinned:
            return NOTHING
        resident = self.residency.residents.get(model_id)
        return self.pinned[model_id] if resident is None else resident.reserved_bytes

    def serving_bytes(self, *, besides: str) -> Footprint:
        """The memory of the models that serve while others are promoted, but for one, and for pinned ones."""
        if not self.serving:
            return NOTHING
        residents = self.residency.residents.items()
        return total_of(
            [
                each.reserved_bytes
                for id, each in residents
                if id in self.serving and id not in self.pinned and id != besides
            ]
        )


class Occupancy(msgspec.Struct, frozen=True, kw_only=True):
    """How a resident is used at this moment."""

    holds: int = 0
    """The number of running generations and of requests that wait for its load to end."""
    last_used: float = 0.0
    worth: float | None = None
    """What its memory is worth by an eviction policy: of those that may leave at once, the least worth leaves
    first. None: the order of the last uses."""
    reload_seconds: float | None = None
    """What it takes to have it again as it is; None: not known."""
    gives_way: bool = False
    """Whether nobody but a bet has it loaded, so that its load may end for whoever needs the memory."""
    leaving: bool = False
    """Whether it is being unloaded already, so that its memory will be freed anyway, once it has no holds."""


Occupancies: TypeAlias = Mapping[str, Occupancy]
"""By model; those that are left out are unused."""
UNUSED = Occupancy()


# --- events: what happens besides that which is in the log -------------------------------------------------


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """The model of this request is there, or being loaded."""

    request: Request


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    """The request waits."""

    request: Request


class Withdrawn(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever sent the requests waits no longer."""

    requests: tuple[Request, ...]


class BecameReady(msgspec.Struct, frozen=True, kw_only=True):
    """A model can be used from now on."""

    model_id: str
    now: float
    load_seconds: float


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A model turned out to need other memory than was estimated."""

    model_id: str
    estimated_bytes: Footprint
    resident_bytes: Footprint


class Available(msgspec.Struct, frozen=True, kw_only=True):
    """Other programs use more or less memory than before."""

    bytes: Footprint
    """What they leave for all models together. A GPU that is left out is not known: it counts as free."""


class Pinned(msgspec.Struct, frozen=True, kw_only=True):
    """A model is to stay loaded."""

    model_id: str
    need_bytes: Footprint


class Unpinned(msgspec.Struct, frozen=True, kw_only=True):
    """A model need not stay loaded any longer."""

    model_id: str


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """These models serve under aliases to which other versions are being promoted, and no others."""

    aliases: Mapping[str, str]
    """By model."""


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A model is to be loaded for all that wait for it."""

    model_id: str
    reserved_bytes: Footprint
    evicting: tuple[str, ...]
    """The models whose memory it gets; some may be leaving already."""
    decision: Decision | None = None
    """What was weighed; None until somebody asks (`suite.domain.weighing`)."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A request that has waited in vain, and why."""

    request: Request
    error: SuiteError


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a waiting model stands."""

    place: int
    """1: it is the next."""
    waits_for: tuple[str, ...]
    """The models that have to leave first."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to happen now. It is decided again when anything has changed, and at `due`."""

    start: Start | None = None
    served: tuple[Request, ...] = ()
    refused: tuple[Refused, ...] = ()
    evict: tuple[str, ...] = ()
    """Models that leave because all together need more memory than was estimated."""
    closing: frozenset[str]
    places: Mapping[str, Place] = {}
    """Of the models that go on waiting."""
    due: float = math.inf


TurnEvent: TypeAlias = (
    Served | Queued | Withdrawn | BecameReady | Measured | Available | Pinned | Unpinned | Serving | Plan
)


def evolve(state: Turns, event: Event | TurnEvent) -> Turns:
    """The state after one event, of the log or of this module."""
    replace = msgspec.structs.replace
    match event:
        case InstanceEvent():
            return _after_fact(state, event)
        case Queued(request=request):
            queue = state.waiting.get(request.model_id)
            queue = Queue.of([request]) if queue is None else queue.joined_by(request)
            return replace(state, waiting={**state.waiting, request.model_id: queue})
        case Withdrawn(requests=requests):
            return replace(state, waiting=_without(state.waiting, requests))
        case Plan():
            ended = (*event.served, *(refused.request for refused in event.refused))
            return replace(state, waiting=_without(state.waiting, ended), closing=event.closing)
        case BecameReady():
            return replace(state, tenures={**state.tenures, event.model_id: _tenure(state, event)})
        case Measured():
            return replace(state, measured={**state.measured, event.model_id: event})
        case Available(bytes=available):
            gpus = {**state.residency.limit_bytes.gpus, **available.gpus}
            residency = replace(state.residency, available_bytes=Footprint(available.ram, gpus))
            return replace(state, residency=residency)
        case Pinned():
            return replace(state, pinned={**state.pinned, event.model_id: event.need_bytes})
        case Unpinned():
            return replace(state, pinned=_less(state.pinned, event.model_id))
        case Serving(aliases=aliases):
            return replace(state, serving=aliases)
        case _:
            return state


def _after_fact(state: Turns, event: InstanceEvent) -> Turns:
    residency = residents.evolve(state.residency, event)
    state = msgspec.structs.replace(state, residency=residency)
    if isinstance(event, InstanceLoadStarted):
        return msgspec.structs.replace(
            state,
            waiting=_less(state.waiting, event.model_id),
            tenures=_less(state.tenures, event.model_id),
            closing=state.closing - {event.model_id},
        )
    if isinstance(event, InstanceLoaded) or event.model_id in residency.residents:
        return state
    return msgspec.structs.replace(
        state, tenures=_less(state.tenures, event.model_id), closing=state.closing - {event.model_id}
    )


def _tenure(state: Turns, event: BecameReady) -> Tenure:
    turn_seconds = state.turn_seconds
    if turn_seconds is None:
        turn_seconds = min(max(LOADS_A_TURN * event.load_seconds, LEAST_TURN_SECONDS), LONGEST_TURN_SECONDS)
    stay_seconds = min(event.load_seconds, turn_seconds, LONGEST_STAY_SECONDS)
    return Tenure(ready_at=event.now, stay_seconds=stay_seconds, turn_seconds=turn_seconds)


def _without(waiting: Mapping[str, Queue], ended: Iterable[Request]) -> Mapping[str, Queue]:
    gone: dict[str, set[str]] = {}
    for request in ended:
        gone.setdefault(request.model_id, set()).add(request.request_id)
    if not gone:
        return waiting
    left = dict(waiting)
    for model_id, ids in gone.items():
        queue = left[model_id].without(ids) if model_id in left else None
        if queue is not None:
            left[model_id] = queue  # in its place: of equal ranks the first one stays the first
        else:
            left.pop(model_id, None)
    return left


V = TypeVar("V")


def _less(mapping: Mapping[str, V], key: str) -> Mapping[str, V]:
    if key not in mapping:
        return mapping
    left = dict(mapping)
    del left[key]
    return left


# --- what a state says ------------------------------------------------------------------------------------


def scarcest(state: Turns) -> str:
    """The memory by which models are compared that may leave: the scarcest for the first of those who wait.

    If nobody waits, the one that is over its limit the most.
    """
    residency = state.residency
    if not residency.limit_bytes.gpus:
        return RAM
    free = residency.admissible_bytes - residency.reserved_bytes
    if not state.waiting:
        return (NOTHING - free).largest
    first = min(state.waiting.values(), key=attrgetter("rank"))
    return state.need_bytes(first.requests[0]).scarcest(free)


def is_open(state: Turns, model_id: str, occupancy: Occupancies) -> bool:
    """Whether a model is loaded or loading, and not being unloaded."""
    return model_id in state.residency.residents and not occupancy.get(model_id, UNUSED).leaving


def may_leave(state: Turns, model_id: str, *, now: float, use: Occupancy) -> bool:
    """Whether a model can leave at once, and had the time that it stays at least."""
    tenure = state.tenures.get(model_id)
    return (
        tenure is not None
        and not use.holds
        and not use.leaving
        and model_id not in state.pinned
        and model_id not in state.serving
        and tenure.is_idle_at(use.last_used) <= now
    )
