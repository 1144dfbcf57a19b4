"""Supervises the instances of one node: says who may use which, which stay, and when they leave.

Who gets memory when is decided in `admission`, and `lifecycle` takes each instance from the decision on its
load to its end. All tasks run in the supervisor's own task group.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.abc

from suite.catalogue import Model
from suite.domain.footprint import Footprint
from suite.domain.residency import Residency
from suite.domain.turns import Available, Pinned, Serving, Start, Turns, Unpinned
from suite.engine.gguf.estimate import PROCESS_BYTES
from suite.errors import NodeStopping
from suite.gpus import GpuMemory
from suite.identity import Clock, NewId, Now
from suite.machine import Bound
from suite.messages.decisions import Decision
from suite.messages.events import InstanceLoadStarted, UnloadReason
from suite.node.admission import Admission, Terms
from suite.node.admission_log import AdmissionLog
from suite.node.appraisal import Appraise
from suite.node.confinement import ModelConfinement
from suite.node.cores import NodeCores
from suite.node.instance import Departure, Instance, Tell
from suite.node.instance_end import InstanceEnds
from suite.node.instance_log import InstanceLog
from suite.node.journal import Journal
from suite.node.launcher import Launcher
from suite.node.leases import Leases, Terminate
from suite.node.lifecycle import Lifecycle
from suite.node.measurements import LoadMeasurements
from suite.node.memory_kills import MemoryKills
from suite.node.memory_watch import MemoryWatch
from suite.node.outcomes import Outcomes
from suite.node.process import STOP_SECONDS
from suite.node.quarantine import Quarantine
from suite.node.reservations import Reservations
from suite.node.sizes import ModelSizes
from suite.node.standby import Standby
from suite.node.unloads import Unloads
from suite.process_memory import process_memory
from suite.tasks import background
from suite.ticks import tick

SWEEP_SECONDS = 1.0
_LAST_WORDS_SECONDS = 1.0

VersionOf = Callable[[Model, str | None], int]


class Supervisor:
    """The instances of one node, by model id."""

    def __init__(
        self,
        node: str,
        journal: Journal,
        *,
        turns: Turns,
        quarantine: Quarantine,
        sizes: ModelSizes,
        machine_memory: Bound,
        available_memory: Callable[[], Bound | None],
        gpus: Callable[[], tuple[GpuMemory, ...]],
        launcher: Launcher,
        standby: Standby,
        keeps_standby: bool,
        terminate: Terminate,
        cores: NodeCores,
        memory_kills: MemoryKills,
        confinement: ModelConfinement,
        appraise: Appraise,
        version_of: VersionOf,
        new_id: NewId,
        now: Now,
        clock: Clock,
    ) -> None:
        """`turns` has the memory limit. `machine_memory` is what the node may use of the machine's memory,
        and `available_memory` says how much more it could have now. `keeps_standby`: whether to keep
        the standby process for the next load while the limit has room for it. `appraise`: what the memory of
        models is worth. `version_of`: which version of its model a content is, by number.
        """
        self.node = node
        self.instances: dict[str, Instance] = {}
        self.sizes = sizes
        self.quarantine = quarantine
        """Which models must not be loaded now."""
        self.cores = cores
        """Who computes with how many threads."""
        self.confinement = confinement
        self._standby = standby
        self._keeps_standby = keeps_standby
        self._version_of = version_of
        self._now, self._clock = now, clock
        self._stopping = False
        self._tasks: anyio.abc.TaskGroup
        measurements = LoadMeasurements()
        self.admission = Admission(
            turns,
            instances=self.instances,
            need=sizes.need,
            begin_load=self._begin_load,
            evict=self._evict,
            appraise=appraise,
            check=quarantine.check,
            look=self._look,
            outcomes=Outcomes(node),
            measurements=measurements,
            new_id=new_id,
            clock=clock,
        )
        self._admission_log = AdmissionLog(self.admission, journal, new_id)
        log = InstanceLog(
            node,
            journal,
            admission=self.admission,
            quarantine=quarantine,
            sizes=sizes,
            note_version=self.note_version,
        )
        reservations = Reservations(self.admission, log)
        self.memory = MemoryWatch(
            instances=self.instances.values,
            standby=lambda: self._standby.pid,
            measure=process_memory,
            total=machine_memory,
            available=available_memory,
            gpus=gpus,
            is_changing=self._is_changing,
            on_size=reservations.grow,
            on_available=self._squeezed,
        )
        """What memory was measured to be in use."""
        self.leases = Leases(self.instances, terminate, self._touch)
        """The generations that the actors have."""
        ends = InstanceEnds(node, memory_kills, lambda: self._stopping)
        self._unloads = Unloads(self._spawn, ends.why_cut, clock)
        self.lifecycle = Lifecycle(
            self.instances,
            admission=self.admission,
            quarantine=quarantine,
            log=log,
            reservations=reservations,
            launcher=launcher,
            leases=self.leases,
            unloads=self._unloads,
            ends=ends,
            memory=self.memory,
            confinement=confinement,
            measurements=measurements,
            touch=self._touch,
            spawn=self._spawn,
            new_id=new_id,
            now=now,
            clock=clock,
        )
        """What became of instances, and what their processes have told."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run until the block ends. For an orderly shutdown call `drain` and `stop` before that."""
        try:
            async with background() as self._tasks:
                self._tasks.start_soon(self.cores.run)
                await self.memory.look()
                self._tasks.start_soon(self.memory.run)
                self._tasks.start_soon(self.admission.run)
                self._tasks.start_soon(self._admission_log.run)
                if self._keeps_standby:
                    self._tasks.start_soon(self._standby.keep, self._may_prepare)
                yield
        finally:
            # After a disorderly end, clients that still wait for a generation get an error.
            with anyio.move_on_after(_LAST_WORDS_SECONDS, shield=True):
                for instance in self.instances.values():
                    await self.leases.terminate(instance, NodeStopping())
            self.cores.table.close()

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        self._tasks.start_soon(work)

    # --- use ----------------------------------------------------------------------------------------------

    @property
    def residency(self) -> Residency:
        """Which models have memory."""
        return self.admission.state.residency

    def need_bytes(self, model: Model) -> Footprint:
        """The memory that a load of this model reserves: measured by its last loads, or else estimated."""
        return self.admission.state.granted_bytes(model.model_id, *self.sizes.need(model))

    @asynccontextmanager
    async def hold(
        self, model: Model, terms: Terms, *, correlation_id: str, tell: Tell | None = None
    ) -> AsyncIterator[Instance]:
        """An instance of the model, loading or loaded, that is not evicted during the block.

        It waits until there is memory as `terms` say; `tell` gets its place in the line. Raises Quarantined,
        NotEnoughMemory, Overloaded, NodeStopping, or what the append of the decision raises.
        """
        instance = await self.admission.enter(model, terms, correlation_id=correlation_id, tell=tell)
        if terms.keep_alive is not None:
            instance.keep_alive = terms.keep_alive
        try:
            yield instance
        finally:
            instance.let_go(terms.purpose)
            self._touch(instance)

    def note_version(self, instance: Instance) -> int:
        """Which version of its model an instance is, by number. The log may know that only after its load."""
        if not instance.version:
            instance.version = self._version_of(instance.model, instance.sha256)
        return instance.version

    def loaded(self, model_id: str | None) -> list[Instance]:
        """The loaded instances of a model; None: of all models."""
        return [
            instance
            for instance in self.instances.values()
            if instance.phase == "loaded" and model_id in (None, instance.model.model_id)
        ]

    # --- unload -------------------------------------------------------------------------------------------

    async def unload(
        self, model_id: str, reason: UnloadReason, *, drain_seconds: float, requested_by: str = ""
    ) -> Instance | None:
        """End the model's instance and wait until its memory is released. Returns None if there is none.

        Running generations may go on for `drain_seconds` and are then cancelled; a load is ended at once.
        If an unload is already under way, this can only shorten its deadline.
        """
        instance = self.instances.get(model_id)
        if instance is None:
            return None
        deadline = self._clock() + drain_seconds
        departure = Departure(requested_by=requested_by)
        while instance.phase != "gone":
            self._unloads.begin(instance, reason, deadline, departure)
            await instance.wait_change()
        return instance

    def retire(self, model_id: str, reason: UnloadReason, *, drain_seconds: float) -> None:
        """Unload a model without waiting for the end."""
        self._spawn(partial(self.unload, model_id, reason, drain_seconds=drain_seconds))

    async def drain(self) -> None:
        """Admit no more loads, and wait until no generation runs."""
        self._stopping = True
        self.admission.close()
        for instance in list(self.instances.values()):
            while instance.leases and instance.phase in ("loading", "loaded"):
                await instance.wait_change()

    async def stop(self, process_seconds: float = STOP_SECONDS) -> None:
        """Admit no more loads, and end every instance. Processes are killed after ``process_seconds``."""
        self._stopping = True
        self.admission.close()
        self._unloads.process_seconds = process_seconds
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._admission_log.close)
            for model_id in list(self.instances):
                tasks.start_soon(partial(self.unload, model_id, "shutdown", drain_seconds=0.0))

    # --- stay ---------------------------------------------------------------------------------------------

    def pin(self, model_id: str, need_bytes: Footprint | None) -> None:
        """Keep a model loaded once it is, and so many bytes for it until then; None: no longer."""
        if self.admission.state.pinned.get(model_id) == need_bytes:
            return
        self.admission.note(
            Unpinned(model_id=model_id)
            if need_bytes is None
            else Pinned(model_id=model_id, need_bytes=need_bytes)
        )

    def is_pinned(self, model_id: str) -> bool:
        """Whether the model stays loaded."""
        return model_id in self.admission.state.pinned

    def protect(self, serving: Mapping[str, str]) -> None:
        """Let none of these models leave for others, nor because nobody uses it, while it is in memory.

        They serve under aliases to which other versions are being promoted: each with its alias.
        """
        if self.admission.state.serving != serving:
            self.admission.note(Serving(aliases=serving))

    def stays(self, model_id: str) -> bool:
        """Whether the model leaves for no other one."""
        return self.is_pinned(model_id) or model_id in self.admission.state.serving

    async def sweep_idle(self, keep_alive: Callable[[Model], float]) -> None:
        """Unload what was not used for as long as it is kept, until cancelled. `keep_alive`: in seconds."""
        while True:
            await tick(SWEEP_SECONDS)
            for instance in list(self.instances.values()):
                own = instance.keep_alive
                self._unload_idle(instance, keep_alive(instance.model) if own is None else own)

    def _unload_idle(self, instance: Instance, keep_alive: float) -> None:
        if not instance.is_idle or self.stays(instance.model.model_id):
            return
        if keep_alive <= self._clock() - instance.last_used:
            departure = Departure(keep_alive_seconds=keep_alive)
            self._unloads.begin(instance, "idle", self._clock(), departure)

    def _touch(self, instance: Instance) -> None:
        instance.last_used = self._clock()
        instance.last_used_at = self._now().isoformat()
        if instance.keep_alive is not None:
            self._unload_idle(instance, instance.keep_alive)
        self.admission.wake()

    # --- what others decide by, and have done ---------------------------------------------------------------

    async def _begin_load(
        self, model: Model, start: Start, correlation_id: str, asked_ns: int
    ) -> tuple[Instance, InstanceLoadStarted]:
        if self._stopping:
            raise NodeStopping
        return await self.lifecycle.begin(model, start, correlation_id, asked_ns)

    def _evict(self, instance: Instance, decision: Decision) -> None:
        self._unloads.begin(instance, "evicted", self._clock(), Departure(decision=decision))

    def _may_prepare(self) -> bool:
        """Whether to start a standby process now: a load waits, or else it takes no cores from others.

        The memory limit must have room for it; nothing is evicted.
        """
        has_room = self.admission.free_bytes.ram >= PROCESS_BYTES
        return has_room and (bool(self.admission.state.waiting) or not self.cores.table.busy)

    async def _look(self) -> None:
        """Have a decision made of what memory is used now."""
        await self.memory.look_if_old()

    def _is_changing(self) -> bool:
        """Whether memory changes hands: somebody loads, or waits for it."""
        return self.admission.is_undecided or any(each.phase == "loading" for each in self.instances.values())

    def _squeezed(self, available_bytes: Footprint) -> None:
        """Heed what other programs leave. A standby process gives way when there is no memory for it."""
        self.admission.note(Available(bytes=available_bytes))
        if self.admission.free_bytes.ram < 0 and self._standby.pid is not None:
            self._spawn(self._standby.end)
