"""A node's memory without a node: what the decider of turns decides is done here, and checked, in no time."""

from __future__ import annotations

from suite.domain.footprint import NOTHING, Footprint, total_of
from suite.domain.residency import Residency
from suite.domain.turn_answer import Ask, decide, never_fits
from suite.domain.turn_plan import plan
from suite.domain.turns import (
    Available,
    BecameReady,
    Measured,
    Occupancy,
    Pinned,
    Plan,
    Request,
    Served,
    Serving,
    Start,
    Turns,
    Unpinned,
    Withdrawn,
    evolve,
)
from suite.domain.weighing import weigh
from suite.errors import SuiteError
from suite.messages.decisions import Decision, Purpose
from suite.messages.events import (
    InstanceCrashed,
    InstanceGrew,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
    UnloadReason,
)
from suite.prediction.replay.decisions import evicted_again, is_whole

NODE = "box1"

Size = int | Footprint
"""Bytes of RAM, or in several memories."""


def footprint(size: Size) -> Footprint:
    return Footprint(size) if isinstance(size, int) else size


class Memory:
    """The state, what uses the models, and the processes that are there."""

    def __init__(self, limit: Size, *, queue_limit: int = 64, turn_seconds: float | None = None) -> None:
        residency = Residency(limit_bytes=footprint(limit))
        self.state = Turns(residency=residency, queue_limit=queue_limit, turn_seconds=turn_seconds)
        self.now = 0.0
        self.plan = Plan(closing=frozenset())
        """The last one."""
        self.using: dict[str, set[str]] = {}
        """The requests that use each resident."""
        self.last_used: dict[str, float] = {}
        self.leaving: dict[str, UnloadReason] = {}
        self.begun: dict[str, float] = {}
        """The loads that have been started, with when their process began; absent while they wait for it."""
        self.victims: dict[str, tuple[str, ...]] = {}
        self.processes: dict[str, Footprint] = {}
        """The bytes of each process."""
        self.served: dict[str, Request] = {}
        """Every request that was served, by id."""
        self.refused: dict[str, SuiteError] = {}
        self.starts: list[Start] = []
        self.decisions: list[Decision] = []
        """What was weighed for each start."""
        self.evicted: list[str] = []
        self._count = 0

    # --- what is there --------------------------------------------------------------------------------------

    @property
    def residents(self) -> set[str]:
        return set(self.state.residency.residents)

    @property
    def loading(self) -> list[str]:
        return sorted(self.begun)

    @property
    def waiting(self) -> list[Request]:
        return [request for queue in self.state.waiting.values() for request in queue.requests]

    def occupancy(self) -> dict[str, Occupancy]:
        return {
            model: Occupancy(
                holds=len(self.using.get(model, ())),
                last_used=self.last_used.get(model, 0.0),
                gives_way=self.is_bet(model),
                leaving=model in self.leaving,
            )
            for model in self.state.residency.residents
        }

    def is_bet(self, model: str) -> bool:
        """Whether a model is loading, and nobody but a bet has it loaded."""
        purposes = {self.served[id].purpose for id in self.using.get(model, ())}
        return self.state.residency.residents[model].phase == "loading" and purposes == {"preload"}

    # --- what requests do -----------------------------------------------------------------------------------

    def ask(
        self,
        model: str,
        size: Size,
        *,
        growth: Size = NOTHING,
        wait: float = 1e6,
        priority: int = 0,
        only_evicting: tuple[str, ...] | None = None,
        purpose: Purpose = "request",
    ) -> str:
        """Ask for a model. Returns the request's id; raises its refusal."""
        self._count += 1
        request = Request(
            request_id=f"r{self._count}",
            model_id=model,
            need_bytes=footprint(size),
            growth_bytes=footprint(growth),
            since=self.now,
            deadline=self.now + wait,
            priority=priority,
            only_evicting=only_evicting,
            purpose=purpose,
        )
        answer = decide(self.state, Ask(request=request, occupancy=self.occupancy()))
        self.state = evolve(self.state, answer)
        if isinstance(answer, Served):
            self._serve(request)
        self.settle()
        return request.request_id

    def finish(self, request_id: str) -> None:
        """A request that uses a model is done with it."""
        model = self.served[request_id].model_id
        self.using[model].discard(request_id)
        self.last_used[model] = self.now
        self.settle()

    def withdraw(self, request_id: str) -> None:
        """The sender of a waiting request is gone."""
        (request,) = [each for each in self.waiting if each.request_id == request_id]
        self.state = evolve(self.state, Withdrawn(requests=(request,)))
        self.settle()

    # --- what processes do ----------------------------------------------------------------------------------

    def finish_load(self, model: str, measured: Size | None = None) -> None:
        resident = self.state.residency.residents[model]
        seconds = self.now - self.begun.pop(model)
        size = resident.reserved_bytes if measured is None else footprint(measured)
        if not size.is_within(resident.reserved_bytes):
            known = Measured(model_id=model, estimated_bytes=resident.reserved_bytes, resident_bytes=size)
            self.state = evolve(self.state, known)
            if never_fits(self.state, model, size) is not None:
                self._fail(model)
                return
        self.processes[model] = size
        fact = InstanceLoaded(
            node=NODE,
            model_id=model,
            instance_id=resident.instance_id,
            pid=1,
            resident_bytes=size.ram,
            gpu_bytes=sum(size.gpus.values()),
            gpus=dict(size.gpus),
            load_ms=0.0,
        )
        self.state = evolve(self.state, fact)
        self.state = evolve(self.state, BecameReady(model_id=model, now=self.now, load_seconds=seconds))
        self.last_used[model] = self.now
        self.settle()

    def grow(self, model: str, size: Size) -> None:
        """A loaded model was measured to need more."""
        needed = footprint(size)
        fact = InstanceGrew(
            node=NODE,
            model_id=model,
            instance_id=self._instance(model),
            reserved_bytes=needed.total,
            gpus=dict(needed.gpus),
        )
        self.state = evolve(self.state, fact)
        self.processes[model] = needed
        self.settle()

    def others_leave(self, size: Size) -> None:
        """Other programs use so much of the machine that this is left for all models together."""
        self.state = evolve(self.state, Available(bytes=footprint(size)))
        self.settle()

    def fail_load(self, model: str) -> None:
        del self.begun[model]
        self._fail(model)

    def _fail(self, model: str) -> None:
        self._end(
            InstanceLoadFailed(
                node=NODE, model_id=model, instance_id=self._instance(model), code="load_failed", message=""
            )
        )

    def crash(self, model: str) -> None:
        self._end(
            InstanceCrashed(
                node=NODE, model_id=model, instance_id=self._instance(model), exit_code=-9, generations=0
            )
        )

    def unload(self, model: str) -> None:
        """Somebody wants it unloaded; what uses it is cut."""
        self.leaving.setdefault(model, "requested")
        self.using[model] = set()
        self.settle()

    def drain(self, model: str) -> None:
        """Somebody wants it unloaded as soon as nothing uses it."""
        self.leaving.setdefault(model, "requested")
        self.settle()

    def leave(self, model: str) -> None:
        """The process of a model that is being unloaded has ended."""
        self._end(
            InstanceUnloaded(
                node=NODE,
                model_id=model,
                instance_id=self._instance(model),
                reason=self.leaving[model],
                freed_bytes=0,
            )
        )

    def _instance(self, model: str) -> str:
        return self.state.residency.residents[model].instance_id

    def _end(self, fact: InstanceLoadFailed | InstanceCrashed | InstanceUnloaded) -> None:
        self.state = evolve(self.state, fact)
        self.processes.pop(fact.model_id, None)
        self.begun.pop(fact.model_id, None)
        self.victims.pop(fact.model_id, None)
        self.leaving.pop(fact.model_id, None)
        self.using.pop(fact.model_id, None)
        self._begin_loads()
        self.settle()

    # --- pins and time --------------------------------------------------------------------------------------

    def pin(self, model: str, size: Size) -> None:
        self.state = evolve(self.state, Pinned(model_id=model, need_bytes=footprint(size)))
        self.settle()

    def unpin(self, model: str) -> None:
        self.state = evolve(self.state, Unpinned(model_id=model))
        self.settle()

    def promote(self, *serving: str) -> None:
        """These models serve under an alias to which another version is being promoted, and no others."""
        self.state = evolve(self.state, Serving(aliases=dict.fromkeys(serving, "chat")))
        self.settle()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and decide whenever it is due."""
        until = self.now + seconds
        while self.plan.due <= until:
            self.now = self.plan.due
            self.settle()
        self.now = until
        self.settle()

    # --- what is decided ------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Decide until nothing more is to be done now, and check each decision."""
        while True:
            self.plan = plan(self.state, now=self.now, occupancy=self.occupancy())
            self._check(self.plan)
            if self.plan.start is not None:
                self._weigh(self.plan.start)
            self.state = evolve(self.state, self.plan)
            for request in self.plan.served:
                self._serve(request)
            for refused in self.plan.refused:
                self.refused[refused.request.request_id] = refused.error
            for model in self.plan.evict:
                self._evict(model)
            if self.plan.start is not None:
                self._start(self.plan.start)
            elif not self.plan.evict:
                return

    def _check(self, plan: Plan) -> None:
        going = [*plan.evict, *(plan.start.evicting if plan.start is not None else ())]
        residents = self.state.residency.residents
        for model in going:
            if model in self.leaving:
                continue
            assert model not in self.state.serving, "what serves while others are promoted is evicted"
            if self.is_bet(model):
                continue
            assert not self.using.get(model), "a lease is broken"
            assert residents[model].phase == "loaded", "a load is evicted"
            assert model not in self.state.pinned, "what is pinned is evicted"
            if not (model in plan.evict and self._is_short_of_memory()):
                tenure = self.state.tenures[model]
                assert tenure.ready_at + tenure.stay_seconds <= self.now, "its least time is not over"
        for model in plan.closing:
            assert model not in self.state.pinned and model not in self.state.serving
        assert plan.due > self.now

    def _is_short_of_memory(self) -> bool:
        """Whether the machine does not have what the models that stay need."""
        available = self.state.residency.available_bytes
        residents = self.state.residency.residents
        staying = total_of(each.reserved_bytes for id, each in residents.items() if id not in self.leaving)
        return available is not None and not staying.is_within(available)

    def _weigh(self, start: Start) -> None:
        decision = self.weighed(start.model_id)
        chosen = {each.model_id for each in decision.candidates if each.chosen}
        assert chosen == set(start.evicting) - self.leaving.keys(), "it is not what was decided"
        if is_whole(decision):
            assert evicted_again(start.model_id, decision, {}) == start.evicting, "the record says too little"
        self.decisions.append(decision)

    def weighed(self, model: str) -> Decision:
        """What is weighed now for a model that somebody waits for."""
        return weigh(self.state, model, now=self.now, occupancy=self.occupancy())

    def _start(self, start: Start) -> None:
        assert start.model_id not in self.state.residency.residents, "it is there already"
        for model in start.evicting:
            self._evict(model)
        waited = self.state.queue(start.model_id)
        self.starts.append(start)
        fact = InstanceLoadStarted(
            node=NODE,
            model_id=start.model_id,
            instance_id=f"{start.model_id}-{len(self.starts)}",
            reserved_bytes=start.reserved_bytes.total,
            gpus=dict(start.reserved_bytes.gpus),
            context_tokens=8,
            evicting=start.evicting,
        )
        self.state = evolve(self.state, fact)
        for request in waited:
            self._serve(request)
        self.victims[start.model_id] = start.evicting
        self._begin_loads()

    def _begin_loads(self) -> None:
        """Start the processes of loads whose victims are gone."""
        for model, victims in tuple(self.victims.items()):
            if not any(victim in self.leaving for victim in victims):
                del self.victims[model]
                self.begun[model] = self.now
                self.processes[model] = self.state.residency.residents[model].reserved_bytes

    def _evict(self, model: str) -> None:
        if model not in self.leaving:
            self.leaving[model] = "evicted"
            self.evicted.append(model)

    def _serve(self, request: Request) -> None:
        assert request.request_id not in self.served
        self.served[request.request_id] = request
        self.using.setdefault(request.model_id, set()).add(request.request_id)
