"""Takes each instance of a node through its life: its load is decided, it loads, it is loaded, it ends.

A decision is in the log before it is carried out (ADR 3); what happens to a process is recorded when it
happens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import partial

from suite import telemetry
from suite.catalogue import Model
from suite.domain.quarantine import Lived
from suite.domain.turns import BecameReady, Start
from suite.errors import ActorCrashed, LoadCancelled, LoadFailed, ModelFileInvalid, error_from_reply
from suite.identity import Clock, NewId, Now
from suite.messages.actor import AnyReport, Failed, Finished, Loading, Ready, Stepped
from suite.messages.events import (
    InstanceCrashed,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
)
from suite.node.admission import Admission
from suite.node.confinement import ModelConfinement
from suite.node.instance import Departure, Instance
from suite.node.instance_end import InstanceEnd, InstanceEnds
from suite.node.instance_log import InstanceLog
from suite.node.launcher import Launcher
from suite.node.leases import Leases
from suite.node.measurements import GenerationMeasurements, LoadMeasurements
from suite.node.memory_watch import MemoryWatch
from suite.node.quarantine import Quarantine
from suite.node.reservations import Reservations
from suite.node.unloads import Unloads
from suite.tasks import Spawn


class Lifecycle:
    """Begins instances, and has each run until its process has ended and its memory is released."""

    def __init__(
        self,
        instances: MutableMapping[str, Instance],
        *,
        admission: Admission,
        quarantine: Quarantine,
        log: InstanceLog,
        reservations: Reservations,
        launcher: Launcher,
        leases: Leases,
        unloads: Unloads,
        ends: InstanceEnds,
        memory: MemoryWatch,
        confinement: ModelConfinement,
        measurements: LoadMeasurements,
        touch: Callable[[Instance], None],
        spawn: Spawn,
        new_id: NewId,
        now: Now,
        clock: Clock,
    ) -> None:
        """`instances`: those of the node by model id, as they are kept here. `touch` is called with one that
        is ready to be used.
        """
        self.counts: Counter[str] = Counter()
        """Counts of loads, unloads, crashes, generations and tokens since the start."""
        self.load_errors: dict[str, str] = {}
        """Why the last load of a model failed, by model id; removed when the next load begins."""
        self.generation_measurements = GenerationMeasurements()
        """What is measured of generations and embeddings."""
        self._instances = instances
        self._admission = admission
        self._quarantine = quarantine
        self._log = log
        self._reservations = reservations
        self._launcher = launcher
        self._leases = leases
        self._unloads = unloads
        self._ends = ends
        self._memory = memory
        self._confinement = confinement
        self._measurements = measurements
        self._touch = touch
        self._spawn = spawn
        self._new_id, self._now, self._clock = new_id, now, clock

    # --- begin ----------------------------------------------------------------------------------------------

    async def begin(
        self, model: Model, start: Start, correlation_id: str, asked_ns: int
    ) -> tuple[Instance, InstanceLoadStarted]:
        """Put the decision to load a model into the log, and carry it out.

        `correlation_id`: the request that it is for, which came at `asked_ns` (nanoseconds since 1970).
        Raises what `Journal.decide` raises.
        """
        instance = Instance(model, self._new_id(), now=self._clock(), asked_ns=asked_ns)
        instance.correlation_id = correlation_id
        instance.purpose = start.decision.purpose if start.decision is not None else "request"
        victims = [self._instances[id] for id in start.evicting]
        with self._reserving(instance), self._leaving(victims) as evicted:
            started = await self._log.begin(instance, start)
        self._quarantine.note(started)
        self._instances[model.model_id] = instance
        self.load_errors.pop(model.model_id, None)
        departure = Departure(evicted_for=model.model_id, decision_seq=instance.seq)
        for victim in evicted:
            self._unloads.begin_evicted(victim, departure)
        self._spawn(partial(self._live, instance, victims))
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

    # --- run ------------------------------------------------------------------------------------------------

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
            return await self._launcher.run(instance, self._heed)
        except OSError as error:
            instance.failure = LoadFailed(f"the model's process could not be started: {error}")
        except ModelFileInvalid as error:
            instance.failure = error
        return 0

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
                self._finished(instance, report)
        instance.changed()

    async def _loaded(self, instance: Instance, ready: Ready) -> None:
        assert instance.process is not None
        instance.buffers = ready.buffers
        self._confinement.heard(instance.model.model_id, ready.confinement)
        instance.measured(instance.process.memory())
        instance.resident_bytes = instance.memory.resident_bytes or ready.resident_bytes
        if (refusal := self._reservations.refusal(instance)) is not None:
            instance.failure = refusal
            instance.process.kill()
            return
        now = self._clock()
        instance.progress = 1.0
        instance.load_ms = (now - instance.started) * 1000
        instance.process_ms = (now - instance.process_started) * 1000
        await self._log.loaded(instance)
        instance.load_trace.end()
        self._measurements.loaded(instance, now)
        self.counts["loads"] += 1
        instance.ready_at, instance.loaded_at = self._clock(), self._now().isoformat()
        instance.phase = "loaded"
        instance.trace = instance.correlation_id = None
        model_id, load_seconds = instance.model.model_id, now - instance.process_started
        self._admission.note(BecameReady(model_id=model_id, now=self._clock(), load_seconds=load_seconds))
        self._touch(instance)

    def _finished(self, instance: Instance, report: Finished) -> None:
        self.generation_measurements.finished(instance.model.model_id, report)
        self.counts.update(
            generations=1,
            prompt_tokens=report.prompt_tokens,
            reused_tokens=report.reused_tokens,
            completion_tokens=report.completion_tokens,
        )
        instance.unsaved_tokens = report.unsaved_tokens
        instance.was_used = True
        self._log.generated(report.seq)
        self._leases.finish(instance, report.generation_id)
        self._memory.look_soon()

    # --- end ------------------------------------------------------------------------------------------------

    async def _ended(self, instance: Instance, exit_code: int) -> None:
        """The process has ended: tell those who wait for it, record why, and release its memory."""
        end = self._ends.of(instance, exit_code)
        instance.load_trace.end(
            instance.failure or (LoadCancelled() if instance.unloading else ActorCrashed())
        )
        self._count(end)
        self._measurements.ended(instance, end, self._clock())
        instance.phase = "ending"
        instance.changed()
        await self._leases.terminate(instance, instance.failure or ActorCrashed())
        self._quarantine.lived(
            Lived(
                model_id=end.model_id,
                instance_id=end.instance_id,
                seconds=0.0 if instance.ready_at is None else self._clock() - instance.ready_at,
                was_used=instance.was_used,
            )
        )
        await self._log.ended(instance, end)
        if self._instances.get(instance.model.model_id) is instance:
            del self._instances[instance.model.model_id]
        instance.phase = "gone"
        instance.changed()
        self._memory.look_soon()
        self._admission.wake()

    def _count(self, end: InstanceEnd) -> None:
        match end:
            case InstanceLoadFailed():
                self.load_errors[end.model_id] = end.message
            case InstanceUnloaded():
                self.counts["unloads"] += 1
            case InstanceCrashed():
                self.counts["crashes"] += 1
