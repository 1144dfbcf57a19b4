"""Lets requests into models: at once, or when it is their turn (`suite.domain.turns`, ADR 40).

A request that may use a model counts for it from that moment on, so that the model cannot leave before the
request has begun. One task decides whose turn it is, one load after the other, whenever something has changed
or time has come.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Final

import anyio
import msgspec
from opentelemetry.context import Context

from suite import telemetry
from suite.catalogue import Model
from suite.domain.footprint import Footprint, total_of
from suite.domain.sizes import Need
from suite.domain.turn_answer import Ask, decide
from suite.domain.turn_plan import plan
from suite.domain.turns import (
    Occupancies,
    Place,
    Queued,
    Refused,
    Request,
    Served,
    Start,
    TurnEvent,
    Turns,
    Withdrawn,
    evolve,
    scarcest,
)
from suite.domain.weighing import weigh, weigh_excess
from suite.errors import NodeStopping, NotEnoughMemory, Overloaded, Quarantined, SuiteError
from suite.identity import Clock, NewId
from suite.messages.decisions import Decision, Purpose
from suite.messages.events import AdmissionEvent, Event, InstanceLoadStarted
from suite.messages.signals import Waiting
from suite.node.appraisal import NO_APPRAISAL, Appraisal, Appraise, Held
from suite.node.instance import Instance, Tell
from suite.node.measurements import LoadMeasurements
from suite.node.outcomes import End, Outcomes

logger = logging.getLogger("suite.supervisor")

TELL_SECONDS: Final = 1.0
"""How often one who waits is told a new place, at most."""

BeginLoad = Callable[[Model, Start, str, int], Awaitable[tuple[Instance, InstanceLoadStarted]]]
"""Begins a load for the request with this id, which came at this time (nanoseconds since 1970). Returns when
its start is in the log."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How long a request may wait for memory, and how long its model is to stay afterwards."""

    deadline: float = -math.inf
    """Until when it waits (clock time). By default it gets a model that can be loaded now, or none."""
    priority: int = 0
    keep_alive: float | None = None
    """After how many unused seconds the model is unloaded; None: as it is set already."""
    only_evicting: tuple[str, ...] | None = None
    """Only these models may leave for it; None: any that may leave at all."""
    purpose: Purpose = "request"
    """What for, as the event of the load says it."""


class _Line:
    """Where those stand who wait for one model."""

    def __init__(self) -> None:
        self.place: Place | None = None
        self._listeners: set[anyio.Event] = set()

    def move(self, place: Place) -> None:
        """Wake those who listen if it is another place."""
        if place != self.place:
            self.place = place
            for listener in self._listeners:
                listener.set()

    @contextmanager
    def listening(self, listener: anyio.Event) -> Iterator[None]:
        """Set the event when the place changes, during the block."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)


class _Ticket:
    """A request that waits."""

    def __init__(self, request: Request, model: Model, correlation_id: str, line: _Line) -> None:
        self.request = request
        self.model = model
        self.correlation_id = correlation_id
        self.line = line
        self.trace: Context = telemetry.current()
        self.asked_ns = time.time_ns()
        self.instance: Instance | None = None
        self._error: SuiteError | None = None
        self._is_over = anyio.Event()
        self._news = anyio.Event()

    def serve(self, instance: Instance) -> None:
        self.instance = instance
        self._end()

    def refuse(self, error: SuiteError) -> None:
        self._error = error
        self._end()

    def _end(self) -> None:
        self._is_over.set()
        self._news.set()

    async def instance_or_error(self, tell: Tell | None) -> Instance:
        """Wait for the outcome, and tell the places in the line, one a second at most."""
        if tell is not None:
            await self._tell_places(tell)
        await self._is_over.wait()
        if self.instance is not None:
            return self.instance
        assert self._error is not None
        raise self._error

    async def _tell_places(self, tell: Tell) -> None:
        """Tell each place, until the outcome is there."""
        told: Place | None = None
        while not self._is_over.is_set():
            place = self.line.place
            if place is not None and place != told:
                told = place
                await tell(
                    Waiting(model_id=self.model.model_id, place=place.place, waits_for=place.waits_for)
                )
                with anyio.move_on_after(TELL_SECONDS):
                    await self._is_over.wait()
            else:
                self._news = anyio.Event()
                with self.line.listening(self._news):
                    await self._news.wait()


class Admission:
    """The line of those who wait for the memory of a node."""

    def __init__(
        self,
        state: Turns,
        *,
        instances: Mapping[str, Instance],
        need: Callable[[Model], Need],
        begin_load: BeginLoad,
        evict: Callable[[Instance, Decision], None],
        appraise: Appraise,
        check: Callable[[Model], None],
        look: Callable[[], Awaitable[None]],
        outcomes: Outcomes,
        measurements: LoadMeasurements,
        new_id: NewId,
        clock: Clock,
    ) -> None:
        """`check` raises the error for a model that must not be loaded now. `look` has the state know what
        other programs use at this moment.
        """
        self.state = state
        self._instances = instances
        self._need = need
        self._begin_load = begin_load
        self._evict = evict
        self._appraise = appraise
        self._check = check
        self._look = look
        self._outcomes = outcomes
        self._measurements = measurements
        self._new_id, self._clock = new_id, clock
        self._tickets: dict[str, _Ticket] = {}
        self._news = anyio.Event()
        self.on_change: Callable[[], None] = lambda: None
        """Called when memory or the use of a model has changed."""
        self._is_closed = False

    @property
    def free_bytes(self) -> Footprint:
        """The memory that nobody has, and that is not kept for what is pinned."""
        state = self.state
        residents = state.residency.residents
        kept = total_of(bytes_ for id, bytes_ in state.pinned.items() if id not in residents)
        return state.residency.admissible_bytes - state.residency.reserved_bytes - kept

    def place(self, model_id: str) -> Place | None:
        """Where those stand who wait for a model; None if nobody does."""
        return self._line(model_id).place

    def waiting(self, model_id: str) -> int:
        """How many requests wait for a model to get memory."""
        return len(self.state.queue(model_id))

    def note(self, event: Event | TurnEvent) -> None:
        """Take notice of something that has happened."""
        self.state = evolve(self.state, event)
        self.wake()

    def wake(self) -> None:
        """Decide again, because the use of a model has changed."""
        self.on_change()
        if self.is_undecided:
            self._news.set()

    @property
    def is_undecided(self) -> bool:
        """Whether anybody waits, or must leave."""
        return bool(self.state.waiting) or bool(self.state.residency.excess_bytes)

    def close(self) -> None:
        """Let nobody wait any more: the node stops."""
        self._is_closed = True
        requests = tuple(ticket.request for ticket in self._tickets.values())
        for request in requests:
            self._refuse(request, NodeStopping(), "withdrawn")
        self.state = evolve(self.state, Withdrawn(requests=requests))

    def check_again(self, model_id: str) -> None:
        """Refuse those who wait for a model if it must not be loaded any more."""
        refused = []
        for request in self.state.queue(model_id):
            try:
                self._check(self._tickets[request.request_id].model)
            except SuiteError as error:
                self._refuse(request, error, "refused")
                self._note_refusal_of(request, error)
                refused.append(request)
        if refused:
            self.note(Withdrawn(requests=tuple(refused)))

    async def enter(
        self, model: Model, terms: Terms, *, correlation_id: str, tell: Tell | None = None
    ) -> Instance:
        """An instance of the model, loading or loaded, that counts this request as one that waits for it.

        Raises Quarantined, NotEnoughMemory, Overloaded, NodeStopping, or what the append of the load's start
        raises.
        """
        now, need = self._clock(), self._need(model)
        request = Request(
            request_id=self._new_id(),
            model_id=model.model_id,
            need_bytes=need.peak_bytes,
            growth_bytes=need.peak_bytes - need.ready_bytes,
            smaller=model.smaller(self.state.residency.limit_bytes),
            since=now,
            deadline=max(now, terms.deadline),
            priority=terms.priority,
            only_evicting=terms.only_evicting,
            purpose=terms.purpose,
        )
        if terms.purpose == "request":
            self._measurements.requested(self._instances.get(model.model_id), model.model_id)
        answer = self._answer(request, model)
        if not isinstance(answer, Queued):
            instance = self._instances[model.model_id]
            instance.let_in(terms.purpose)
            return instance
        if self._is_closed:
            raise NodeStopping
        ticket = _Ticket(request, model, correlation_id, self._line(model.model_id))
        self._tickets[request.request_id] = ticket
        self._outcomes.queued(request)
        self.note(answer)
        try:
            return await ticket.instance_or_error(tell)
        except BaseException:
            self._withdraw(ticket)
            raise

    def _answer(self, request: Request, model: Model) -> Served | Queued:
        """Serve a request now, or let it wait. Raises its refusal, which gets into the log."""
        try:
            answer = decide(self.state, Ask(request=request, occupancy=self._occupancy(request.model_id)))
            if isinstance(answer, Queued):
                self._check(model)
        except (NotEnoughMemory, Overloaded) as error:
            asked = evolve(self.state, Queued(request=request))
            self._note_refusal_of(request, error, asked)
            raise
        except Quarantined as error:
            self._note_refusal_of(request, error)
            raise
        return answer

    def note_refusal(self, model_id: str, error: SuiteError) -> None:
        """Have the log say that a client's request for a model was let in, and refused then."""
        self._measurements.refused(model_id, error)
        self._outcomes.refused(model_id, error, self._clock(), weigh=None)

    def _note_refusal_of(self, request: Request, error: SuiteError, state: Turns | None = None) -> None:
        """Have the log say that a request was refused. `state`: in which what is weighed is told."""
        model_id, now = request.model_id, self._clock()
        if request.purpose == "request":  # what a node wanted itself is no request that was refused
            self._measurements.refused(model_id, error)
        self._outcomes.refused(
            model_id,
            error,
            now,
            purpose=request.purpose,
            waited_seconds=now - request.since,
            weigh=None if state is None else partial(self._weigh, state, model_id),
        )

    def outcomes_due(self, *, is_last: bool) -> list[AdmissionEvent]:
        """What is to be appended about waits and refusals now (`Outcomes.take`)."""

        def wait(model_id: str) -> tuple[Place | None, Decision]:
            return self.place(model_id), self._weigh(self.state, model_id)

        return self._outcomes.take(self._clock(), wait, is_last=is_last)

    def _weigh(self, state: Turns, model_id: str) -> Decision:
        appraisal, occupancy = self._use()
        return appraisal.signed(weigh(state, model_id, now=self._clock(), occupancy=occupancy))

    async def run(self) -> None:
        """Decide whose turn it is, until cancelled."""
        while True:
            self._news = anyio.Event()
            due = await self._decide()
            with anyio.move_on_after(due - self._clock()):
                await self._news.wait()

    # --- one decision after the other -----------------------------------------------------------------------

    async def _decide(self) -> float:
        """Do what is to be done now. Returns when to decide again if nothing changes."""
        while self.is_undecided:
            await self._look()
            (appraisal, occupancy), now, before = self._use(), self._clock(), self.state
            turn = plan(before, now=now, occupancy=occupancy)
            self.state = evolve(before, turn)
            for request in turn.served:
                self._serve(request, self._instances[request.model_id])
            for refused in turn.refused:
                self._refuse_after_wait(refused, before)
            if turn.evict:
                decision = appraisal.signed(weigh_excess(before, now=now, occupancy=occupancy))
                for model_id in turn.evict:
                    self._evict(self._instances[model_id], decision)
            self._show(turn.places)
            if turn.start is not None:
                decision = weigh(before, turn.start.model_id, now=now, occupancy=occupancy)
                await self._start(msgspec.structs.replace(turn.start, decision=appraisal.signed(decision)))
            elif not turn.evict:
                return turn.due
        return math.inf

    async def _start(self, start: Start) -> None:
        """Load a model for all who wait for it by then; if that is not possible, all are told why."""
        first = self._tickets[self.state.queue(start.model_id)[0].request_id]
        try:
            # What is decided is carried out, also if those who waited have left meanwhile.
            with anyio.CancelScope(shield=True), telemetry.within(first.trace):
                instance, started = await self._begin_load(
                    first.model, start, first.correlation_id, first.asked_ns
                )
        except Exception as error:
            if not isinstance(error, SuiteError):
                logger.exception("the load of %s could not be started", start.model_id)
                error = SuiteError("the service failed on this request: its log has the cause")
            requests = self.state.queue(start.model_id)
            for request in requests:
                self._refuse(request, error.copy(), "refused")
                self._note_refusal_of(request, error)
            self.state = evolve(self.state, Withdrawn(requests=requests))
            return
        waiting = self.state.queue(start.model_id)
        self._measurements.began(
            start.model_id,
            waited_seconds=instance.started - first.request.since,
            evicted=len(start.evicting),
        )
        self.state = evolve(self.state, started)
        for request in waiting:
            self._serve(request, instance)

    def _serve(self, request: Request, instance: Instance) -> None:
        ticket = self._forget(request, "served")
        instance.let_in(request.purpose)
        ticket.serve(instance)

    def _refuse_after_wait(self, refused: Refused, state: Turns) -> None:
        self._refuse(refused.request, refused.error, "refused")
        self._note_refusal_of(refused.request, refused.error, state)

    def _refuse(self, request: Request, error: SuiteError, end: End) -> None:
        self._forget(request, end).refuse(error)

    def _forget(self, request: Request, end: End) -> _Ticket:
        """The ticket of a request that does not wait any longer."""
        now = self._clock()
        if request.purpose == "request":
            self._measurements.waited(request.model_id, end, now - request.since)
        self._outcomes.ended(request, end, now)
        return self._tickets.pop(request.request_id)

    def _withdraw(self, ticket: _Ticket) -> None:
        """Undo what was done for one that does not wait any longer."""
        if ticket.instance is not None:
            ticket.instance.let_go(ticket.request.purpose)
            self.wake()
        elif ticket.request.request_id in self._tickets:
            self._forget(ticket.request, "withdrawn")
            self.note(Withdrawn(requests=(ticket.request,)))

    def _show(self, places: Mapping[str, Place]) -> None:
        for model_id, place in places.items():
            self._line(model_id).move(place)

    def _line(self, model_id: str) -> _Line:
        """That of those who wait for a model; a new one if nobody does."""
        queue = self.state.queue(model_id)
        ticket = self._tickets.get(queue[0].request_id) if queue else None
        return _Line() if ticket is None else ticket.line

    def _occupancy(self, *model_ids: str, appraisal: Appraisal = NO_APPRAISAL) -> Occupancies:
        return {
            id: msgspec.structs.replace(
                self._instances[id].occupancy,
                worth=appraisal.worth.get(id),
                reload_seconds=appraisal.reload_seconds.get(id),
            )
            for id in model_ids
            if id in self._instances
        }

    def _use(self) -> tuple[Appraisal, Occupancies]:
        """What the models are worth now, and how they are used."""
        memory = scarcest(self.state)
        appraisal = self._appraise(self._held(memory), memory)
        return appraisal, self._occupancy(*self._instances, appraisal=appraisal)

    def _held(self, memory: str) -> Iterator[Held]:
        """The models that are loaded, of which a policy may say which leave."""
        for id, resident in self.state.residency.residents.items():
            if resident.phase == "loaded" and id in self._instances:
                yield Held(self._instances[id], resident.reserved_bytes[memory])
