"""Supervises the instances of one node: admits, watches and ends them.

Who gets memory when is decided in `admission`, and is in the log before it is acted upon (ADR 3). What
happens to a process is recorded when it happens. All tasks run in the supervisor's own task group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import anyio
import anyio.abc
import msgspec

from suite import telemetry
from suite.catalogue import Model
from suite.domain.footprint import Footprint
from suite.domain.quarantine import Lived
from suite.domain.residency import Residency
from suite.domain.turn_answer import never_fits
from suite.domain.turns import (
    Available,
    BecameReady,
    Measured,
    Pinned,
    Serving,
    Start,
    Turns,
    Unpinned,
)
from suite.engine.gguf.estimate import PROCESS_BYTES
from suite.errors import (
    ActorCrashed,
    LoadCancelled,
    LoadFailed,
    LogNotWritable,
    ModelFileInvalid,
    NodeStopping,
    SuiteError,
    UnknownOutcome,
    error_from_reply,
)
from suite.gpus import GpuMemory
from suite.identity import Clock, NewId, Now
from suite.machine import Bound
from suite.messages.actor import ActorSpec, AnyReport, Failed, Finished, Loading, Ready, Stepped
from suite.messages.decisions import Decision
from suite.messages.events import (
    InstanceCrashed,
    InstanceEvent,
    InstanceGrew,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
    UnloadReason,
)
from suite.node.admission import Admission, Tell, Terms
from suite.node.admission_log import AdmissionLog
from suite.node.appraisal import Appraise
from suite.node.confinement import ModelConfinement
from suite.node.cores import NodeCores
from suite.node.instance import Departure, Instance, Lease
from suite.node.instance_end import InstanceEnd, InstanceEnds
from suite.node.journal import Journal
from suite.node.measurements import GenerationMeasurements, LoadMeasurements
from suite.node.memory_kills import MemoryKills
from suite.node.memory_watch import MemoryWatch
from suite.node.outcomes import Outcomes
from suite.node.process import STOP_SECONDS, ActorProcess, end_process
from suite.node.quarantine import Quarantine
from suite.node.sizes import ModelSizes
from suite.node.standby import Standby
from suite.node.unloads import Unloads
from suite.process_memory import process_memory
from suite.tasks import background
from suite.ticks import tick

SWEEP_SECONDS = 1.0
GROWTH_BYTES = 16 << 20
"""What a model counts for grows in such steps, so that each is worth an event."""
_LAST_WORDS_SECONDS = 1.0

MakeSpec = Callable[[Model, str], Awaitable[ActorSpec]]
Terminate = Callable[[Lease, SuiteError], Awaitable[None]]
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
        standby: bool,
        exports_spans: bool,
        make_spec: MakeSpec,
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
        and `available_memory` says how much more it could have now. `standby`: whether to keep a standby
        process for the next load while the limit has room for it. `exports_spans`: whether processes send
        spans to a collector. `appraise`: what the
        memory of models is worth. `version_of`: which version of its model a content is, by number.
        """
        self.instances: dict[str, Instance] = {}
        self.sizes = sizes
        self._load_measurements = LoadMeasurements()
        self.generation_measurements = GenerationMeasurements()
        """What is measured of generations and embeddings."""
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
            measurements=self._load_measurements,
            new_id=new_id,
            clock=clock,
        )
        self.counts: Counter[str] = Counter()
        """Counts of loads, unloads, crashes, generations and tokens since the start."""
        self.on_answered: Callable[[str], None] = lambda _: None
        """Called with the id of a generation that an actor had, once its requester has the last message."""
        self.load_errors: dict[str, str] = {}
        """Why the last load of a model failed, by model id; removed when the next load begins."""
        self.quarantine = quarantine
        """Which models must not be loaded now."""
        self.node = node
        self.on_generation_end: Callable[[str], None] = lambda _: None
        """Called with the id of a generation that a process has no more."""
        self._journal = journal
        self._make_spec = make_spec
        self._version_of = version_of
        self._terminate = terminate
        self.cores = cores
        """Who computes with how many threads."""
        self._memory_kills = memory_kills
        self.confinement = confinement
        self._ends = InstanceEnds(node, memory_kills, lambda: self._stopping)
        self._new_id, self._now, self._clock = new_id, now, clock
        self._standby = Standby(
            [cores.table.descriptor], partial(cores.seat, None), exports_spans=exports_spans
        )
        self._keeps_standby = standby
        self.memory = MemoryWatch(
            instances=self.instances.values,
            standby=lambda: self._standby.pid,
            measure=process_memory,
            total=machine_memory,
            available=available_memory,
            gpus=gpus,
            is_changing=self._is_changing,
            on_size=self._measured,
            on_available=self._squeezed,
        )
        """What memory was measured to be in use."""
        self._admission_log = AdmissionLog(self.admission, journal, new_id)
        self._stopping = False
        self._unloads: Unloads
        self._tasks: anyio.abc.TaskGroup

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run until the block ends. For an orderly shutdown call `drain` and `stop` before that."""
        try:
            async with background() as self._tasks:
                self._unloads = Unloads(self._tasks, self._ends.why_cut, self._clock)
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
                    await self._terminate_leases(instance, NodeStopping())
            self.cores.table.close()

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

    @property
    def generations(self) -> int:
        """How many generations the actors have."""
        return sum(instance.running for instance in self.instances.values())

    def find_generation(self, generation_id: str) -> Instance | None:
        """The instance that has a generation; None if there is none."""
        for instance in self.instances.values():
            if generation_id in instance.leases:
                return instance
        return None

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
        self._tasks.start_soon(partial(self.unload, model_id, reason, drain_seconds=drain_seconds))

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

    def note_version(self, instance: Instance) -> int:
        """Which version of its model an instance is, by number. The log may know that only after its load."""
        if not instance.version:
            instance.version = self._version_of(instance.model, instance.sha256)
        return instance.version

    # --- admission ----------------------------------------------------------------------------------------

    async def _begin_load(
        self, model: Model, start: Start, correlation_id: str, asked_ns: int
    ) -> tuple[Instance, InstanceLoadStarted]:
        """Put a decision into the log, and carry it out."""
        if self._stopping:
            raise NodeStopping
        instance = Instance(model, self._new_id(), now=self._clock(), asked_ns=asked_ns)
        instance.correlation_id = correlation_id
        instance.purpose = start.decision.purpose if start.decision is not None else "request"
        started = InstanceLoadStarted(
            node=self.node,
            model_id=model.model_id,
            instance_id=instance.instance_id,
            reserved_bytes=start.reserved_bytes.total,
            gpus=dict(start.reserved_bytes.gpus),
            context_tokens=model.context_tokens,
            evicting=start.evicting,
            content=model.sha256 or "",
            settings_key=model.settings_key,
            version=self.note_version(instance),
            decision=start.decision,
        )
        victims = [self.instances[id] for id in start.evicting]
        with self._reserving(instance), self._leaving(victims) as evicted:
            undone = InstanceLoadFailed(
                node=self.node,
                model_id=model.model_id,
                instance_id=instance.instance_id,
                code=UnknownOutcome.code,
                message="it was not known whether this load is in the log, so it was given up",
            )
            instance.seq = await self._journal.decide(started, undone=undone, correlation_id=correlation_id)
        self.quarantine.note(started)
        self.instances[model.model_id] = instance
        self.load_errors.pop(model.model_id, None)
        departure = Departure(evicted_for=model.model_id, decision_seq=instance.seq)
        for victim in evicted:
            self._unloads.begin_evicted(victim, departure)
        self._tasks.start_soon(self._live, instance, victims)
        return instance, started

    @contextmanager
    def _reserving(self, instance: Instance) -> Iterator[None]:
        """The phase of a load in which its decision is appended. If that fails, there is no load."""
        instance.enter("reserve", self._clock())
        with telemetry.within(instance.load_trace.phase_context):
            try:
                yield
            except Exception as error:
                instance.load_trace.end(error)
                raise

    @contextmanager
    def _leaving(self, victims: Iterable[Instance]) -> Iterator[list[Instance]]:
        """Let nobody use the victims while the eviction is being appended. If that fails, they stay.

        Yields the victims that this load evicts; the others are being unloaded already.
        """
        asked = [victim for victim in victims if victim.unloading is None]
        for victim in asked:
            victim.unloading = "evicted"
        try:
            yield asked
        except BaseException:
            for victim in asked:
                victim.unloading = None
                victim.changed()
            raise

    def _evict(self, instance: Instance, decision: Decision) -> None:
        self._unloads.begin(instance, "evicted", self._clock(), Departure(decision=decision))

    def _may_prepare(self) -> bool:
        """Whether to start a standby process now: a load waits, or else it takes no cores from others.

        The memory limit must have room for it; nothing is evicted.
        """
        has_room = self.admission.free_bytes.ram >= PROCESS_BYTES
        return has_room and (bool(self.admission.state.waiting) or not self.cores.table.busy)

    # --- life cycle ---------------------------------------------------------------------------------------

    async def _live(self, instance: Instance, victims: Collection[Instance]) -> None:
        with telemetry.within(instance.load_trace.context):
            exit_code = await self._load_and_run(instance, victims)
        with telemetry.within(instance.trace):
            await self._ended(instance, exit_code)

    async def _load_and_run(self, instance: Instance, victims: Collection[Instance]) -> int:
        """Have it loaded and its process run to its end. Returns the exit code; 0 if there was no process."""
        if victims:
            instance.enter("evict", self._clock())
        for victim in victims:
            await victim.wait_gone()
        if instance.unloading is not None:
            return 0
        try:
            return await self._run(instance)
        except OSError as error:
            instance.failure = LoadFailed(f"the model's process could not be started: {error}")
        except ModelFileInvalid as error:
            instance.failure = error
        return 0

    async def _run(self, instance: Instance) -> int:
        instance.enter("inspect", self._clock())
        spec = await self._make_spec(instance.model, instance.instance_id)
        instance.kills_before = self._memory_kills.count()
        instance.process_started = self._clock()
        instance.signature, instance.sha256 = spec.model_files.signature, spec.model_digest
        with self.cores.seat(instance.model.settings.n_threads) as seat:
            instance.seat = seat
            try:
                return await self._run_process(instance, msgspec.structs.replace(spec, cores=seat))
            finally:
                instance.seat = None

    async def _run_process(self, instance: Instance, spec: ActorSpec) -> int:
        instance.enter("spawn", instance.process_started)
        async with ActorProcess.start(spec, await self._standby.take()) as process:
            instance.process = process
            if process.is_loading:
                instance.enter("map", self._clock())
            if spec.cores is not None:
                self.cores.watch(spec.cores, process.pid)
            if instance.unloading is not None:
                process.kill()
            async for report in process.reports():
                await self._heed(instance, report)
            return await process.exit_code()

    async def _heed(self, instance: Instance, report: AnyReport) -> None:
        match report:
            case Loading(fraction=fraction):
                instance.enter("map" if fraction < 1.0 else "warm_up", self._clock())
                instance.progress = fraction
            case Ready():
                await self._loaded(instance, report)
            case Failed(code=code, message=message):
                instance.failure = error_from_reply(code, message)
            case Stepped(steps=steps):
                self.generation_measurements.stepped(instance.model.model_id, steps)
                return  # nothing that anybody waits for
            case Finished():
                self.generation_measurements.finished(instance.model.model_id, report)
                self.counts.update(
                    generations=1,
                    prompt_tokens=report.prompt_tokens,
                    reused_tokens=report.reused_tokens,
                    completion_tokens=report.completion_tokens,
                )
                instance.unsaved_tokens = report.unsaved_tokens
                instance.was_used = True
                self._journal.last_seq = max(self._journal.last_seq, report.seq or 0)
                self.release(instance, report.generation_id)
                self.on_answered(report.generation_id)
                self.memory.look_soon()
        instance.changed()

    async def _loaded(self, instance: Instance, ready: Ready) -> None:
        assert instance.process is not None
        instance.buffers = ready.buffers
        self.confinement.heard(instance.model.model_id, ready.confinement)
        instance.measured(instance.process.memory())
        instance.resident_bytes = instance.memory.resident_bytes or ready.resident_bytes
        if self._is_too_large(instance):
            instance.process.kill()
            return
        now = self._clock()
        instance.progress = 1.0
        instance.load_ms = (now - instance.started) * 1000
        instance.process_ms = (now - instance.process_started) * 1000
        await self._record(instance, self._loaded_fact(instance, instance.load_ms, instance.process_ms))
        instance.load_trace.end()
        self._load_measurements.loaded(instance, now)
        self.counts["loads"] += 1
        instance.ready_at, instance.loaded_at = self._clock(), self._now().isoformat()
        instance.phase = "loaded"
        instance.trace = instance.correlation_id = None
        model_id, load_seconds = instance.model.model_id, now - instance.process_started
        self.admission.note(BecameReady(model_id=model_id, now=self._clock(), load_seconds=load_seconds))
        self._touch(instance)

    def _loaded_fact(self, instance: Instance, load_ms: float, process_ms: float) -> InstanceLoaded:
        assert instance.process is not None
        parts: Counter[str] = Counter()
        for buffer in instance.buffers:
            parts[buffer.part] += buffer.bytes
        return InstanceLoaded(
            node=self.node,
            model_id=instance.model.model_id,
            instance_id=instance.instance_id,
            pid=instance.process.pid,
            resident_bytes=instance.resident_bytes,
            load_ms=round(load_ms, 3),
            process_ms=round(process_ms, 3),
            estimated_bytes=instance.model.footprint(self.residency.limit_bytes).total,
            anonymous_bytes=instance.memory.anonymous_bytes,
            file_bytes=instance.memory.file_bytes,
            weights_bytes=parts["weights"],
            kv_bytes=parts["kv"],
            compute_bytes=parts["compute"],
            gpu_bytes=sum(instance.gpus.values()),
            gpus=dict(instance.gpus),
            content=instance.sha256 or "",
            settings_key=instance.model.settings_key,
            version=self.note_version(instance),
        )

    def _is_too_large(self, instance: Instance) -> bool:
        """Remember what a model really needs; whether that is more than it can ever have."""
        model, limits = instance.model, self.residency.limit_bytes
        resident_bytes = instance.ready_footprint.counted_in(limits)
        reserved_bytes = self.residency.residents[model.model_id].reserved_bytes
        if resident_bytes.is_within(reserved_bytes):
            return False
        self.admission.note(
            Measured(model_id=model.model_id, estimated_bytes=reserved_bytes, resident_bytes=resident_bytes)
        )
        smaller = model.smaller(limits)
        instance.failure = never_fits(self.admission.state, model.model_id, resident_bytes, smaller=smaller)
        return instance.failure is not None

    # --- memory -------------------------------------------------------------------------------------------

    async def _measured(self, instance: Instance) -> None:
        """Have a model that needs more than was reserved for it count for that, as far as the limit goes.

        Over the limit, others leave for it; on its own it stays, because caches give way.
        """
        resident = self.residency.residents.get(instance.model.model_id)
        if resident is None or resident.instance_id != instance.instance_id or instance.phase != "loaded":
            return
        limits, before = self.residency.limit_bytes, resident.reserved_bytes
        grown = instance.footprint.counted_in(limits).beyond(before)
        reserved_bytes = before + grown.in_steps_of(GROWTH_BYTES)
        reserved_bytes = before.at_least(reserved_bytes.at_most(limits))
        if reserved_bytes == before:
            return
        await self._record(
            instance,
            InstanceGrew(
                node=self.node,
                model_id=instance.model.model_id,
                instance_id=instance.instance_id,
                reserved_bytes=reserved_bytes.total,
                gpus=dict(reserved_bytes.gpus),
            ),
        )

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
            self._tasks.start_soon(self._end_standby)

    async def _end_standby(self) -> None:
        with anyio.CancelScope(shield=True):  # whoever takes the process must end it
            if (standby := await self._standby.take()) is not None:
                await end_process(standby)

    async def _ended(self, instance: Instance, exit_code: int) -> None:
        """The process has ended: tell those who wait for it, record why, and release its memory."""
        fact = self._ends.of(instance, exit_code)
        instance.load_trace.end(
            instance.failure or (LoadCancelled() if instance.unloading else ActorCrashed())
        )
        self._count(fact)
        self._load_measurements.ended(instance, fact, self._clock())
        instance.phase = "ending"
        instance.changed()
        await self._terminate_leases(instance, instance.failure or ActorCrashed())
        self.quarantine.lived(
            Lived(
                model_id=fact.model_id,
                instance_id=fact.instance_id,
                seconds=0.0 if instance.ready_at is None else self._clock() - instance.ready_at,
                was_used=instance.was_used,
            )
        )
        await self._record(instance, fact)
        if self.instances.get(instance.model.model_id) is instance:
            del self.instances[instance.model.model_id]
        instance.phase = "gone"
        instance.changed()
        self.memory.look_soon()
        self.admission.wake()

    def _count(self, end: InstanceEnd) -> None:
        match end:
            case InstanceLoadFailed():
                self.load_errors[end.model_id] = end.message
            case InstanceUnloaded():
                self.counts["unloads"] += 1
            case InstanceCrashed():
                self.counts["crashes"] += 1

    async def _terminate_leases(self, instance: Instance, error: SuiteError) -> None:
        """Send the terminal message of each generation that the actor had accepted and can no longer end."""
        while instance.leases:
            generation_id, lease = instance.leases.popitem()
            self.on_generation_end(generation_id)
            if lease.accepted:
                await self._say_last_word(lease, error)
                self.on_answered(generation_id)

    async def _say_last_word(self, lease: Lease, error: SuiteError) -> None:
        """Send the terminal message. The spans of the process are lost with it: this one has the error."""
        headers = {} if lease.traceparent is None else {"traceparent": lease.traceparent}
        reply = telemetry.sending("reply", "_INBOX", attributes={"messaging.destination.temporary": True})
        with telemetry.continuing(headers), reply:
            telemetry.fail(error)
            await self._terminate(lease, error)

    async def _record(self, instance: Instance, fact: InstanceEvent) -> None:
        try:
            await self._journal.record(
                fact, correlation_id=instance.correlation_id, written=instance.recorded
            )
        except LogNotWritable as error:  # it has happened all the same, and the journal writes it later
            instance.unrecorded = error
        self.sizes.note(fact)
        follows = self.quarantine.note(fact)
        self.admission.note(fact)
        if follows is not None:
            self.admission.check_again(fact.model_id)
            await self.quarantine.record(follows)

    def release(self, instance: Instance, generation_id: str) -> None:
        """Release the lease of a generation that has ended."""
        if instance.leases.pop(generation_id, None) is not None:
            self.on_generation_end(generation_id)
            self._touch(instance)
            instance.changed()

    def _touch(self, instance: Instance) -> None:
        instance.last_used = self._clock()
        instance.last_used_at = self._now().isoformat()
        if instance.keep_alive is not None:
            self._unload_idle(instance, instance.keep_alive)
        self.admission.wake()
