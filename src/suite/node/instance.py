"""One model on this node, from the start of its load to its end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, TypeAlias

import anyio
import msgspec
from opentelemetry.context import Context

from suite.catalogue import Model
from suite.domain.footprint import NOTHING, Footprint, gpu_name
from suite.domain.turns import Occupancy
from suite.errors import ActorCrashed, SuiteError
from suite.messages.actor import AdapterFile, Buffer, CoreSeat
from suite.messages.decisions import Decision, Purpose
from suite.messages.events import UnloadReason
from suite.messages.signals import AnySignal, Progress
from suite.node.load_trace import LoadPhase, LoadTrace
from suite.node.process import ActorProcess
from suite.prediction.costs import LoadKey
from suite.process_memory import ProcessMemory

Phase: TypeAlias = Literal["loading", "loaded", "ending", "gone"]
Tell: TypeAlias = Callable[[AnySignal], Awaitable[None]]
"""Sends a signal to a requester who waits."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a generation while it is not finished. Never its prompt."""

    since: float
    """When the node got the request (clock time)."""
    conversation_id: str | None
    client: str | None
    """How the requester calls itself."""


class Lease(msgspec.Struct, kw_only=True):
    """Keeps an instance from eviction while a generation runs, and says whom to tell if the instance dies."""

    reply: str
    stream: bool
    asked: Asked
    accepted: bool = False
    """Whether the actor has the generation. Until then the hand-over replies to the client."""
    traceparent: str | None = None
    """The span of the hand-over, which the generation's spans belong to; None outside of any trace."""
    variant: str = ""
    """The name that it was asked for by, if that stands for the model with just its adapters."""
    adapters: tuple[AdapterFile, ...] = ()
    """What the model is computed with for it."""


class Departure(msgspec.Struct, frozen=True, kw_only=True):
    """Why an instance is being unloaded, beyond the reason: what its event says (`InstanceUnloaded`)."""

    evicted_for: str = ""
    decision_seq: int = 0
    decision: Decision | None = None
    requested_by: str = ""
    keep_alive_seconds: float | None = None


class Instance:
    """What the node knows of one instance. `Lifecycle` and `Unloads` change it, and `Leases` its leases."""

    def __init__(self, model: Model, instance_id: str, *, now: float, asked_ns: int | None = None) -> None:
        """`asked_ns`: when its load was asked for (nanoseconds since 1970); None: now."""
        self.model = model
        self.instance_id = instance_id
        self.signature = model.file.signature.text
        """What the file system said of the files when its process was started to load them."""
        self.sha256: str | None = None
        """The digest of the content that it has loaded; None while it is not known."""
        self.version = 0
        """Which version of the model it is, by number; 0 while it is not known."""
        self.phase: Phase = "loading"
        self.progress = 0.0
        self.process: ActorProcess | None = None
        self.seat: CoreSeat | None = None
        """Where its process says what it does, to share the cores."""
        self.failure: SuiteError | None = None
        """Why it ended, for those who waited for it."""
        self.unloading: UnloadReason | None = None
        """Why it is being unloaded; None while it stays."""
        self.departure = Departure()
        """What is known of why it is being unloaded."""
        self.unused_seconds: float | None = None
        """For how long it had not been used when its unload began; None while it has not."""
        self.leave_by: float | None = None
        """When generations that still run are cancelled (clock time); None until the unload has begun."""
        self.kills_before = 0
        """How many kills for lack of memory the kernel had counted before its process started."""
        self.told_to_end = False
        """Whether its process was asked to end, so that its exit is not a crash."""
        self.correlation_id: str | None = None
        """The id of the request that caused its load."""
        self.leases: dict[str, Lease] = {}
        self.waiting = 0
        """How many requests wait for the load, or are about to hand over a generation."""
        self.purpose: Purpose = "request"
        """What it was loaded for."""
        self._bets = 0
        """How many of these are bets on its use."""
        self.keep_alive: float | None = None
        """After how many unused seconds it is unloaded, as a request has said; None: as it is configured."""
        self.started = now
        self.process_started = now
        """When its process began; those whose memory it gets may take a while to leave."""
        self.last_used = now
        self.ready_at: float | None = None
        """When it was loaded (clock time)."""
        self.was_used = False
        """Whether it has finished a request."""
        self.loaded_at: str | None = None
        self.last_used_at: str | None = None
        self.load_ms: float | None = None
        self.process_ms: float | None = None
        """The part of it since its process was begun."""
        self.resident_bytes = 0
        """When it was ready."""
        self.buffers: tuple[Buffer, ...] = ()
        """What llama.cpp has allocated for it, as far as it says."""
        self.memory = ProcessMemory()
        """What its processes had when they were measured last."""
        self.driver_bytes: Mapping[str, int] = {}
        """What the driver of the GPUs says that they had on each, by the name of its memory."""
        self.peak = NOTHING
        """The most that they had."""
        self.freed_bytes = 0
        self.unsaved_tokens = 0
        """The tokens of conversations that are lost with its process, as it told when a generation ended."""
        self.load_trace = LoadTrace(model.model_id, asked_ns=time.time_ns() if asked_ns is None else asked_ns)
        """The phases of its load."""
        self.trace: Context | None = self.load_trace.context
        """The trace that its next event belongs to: that of the load, then none, then that of the unload."""
        self.seq = 0
        """The last event appended about it."""
        self.unrecorded: SuiteError | None = None
        """Why its newest event is not in the log yet; None if it is."""
        self._changed = anyio.Event()

    def enter(self, phase: LoadPhase, now: float) -> None:
        """Its load comes into another phase, which ends the one before."""
        self.load_trace.enter(phase, now)

    @property
    def load_key(self) -> LoadKey:
        """What its load has in common with others that take as long."""
        model = self.model
        return LoadKey(model.model_id, self.sha256 or model.sha256 or "", model.settings_key)

    @property
    def holds(self) -> int:
        """How many generations and waiting requests prevent its eviction."""
        return len(self.leases) + self.waiting

    @property
    def running(self) -> int:
        """How many generations its actor has, running or queued there."""
        return sum(lease.accepted for lease in self.leases.values())

    @property
    def sole_use(self) -> Lease | None:
        """The lease of one of its generations, if all its work was asked for by one name with adapters."""
        leases = [*self.leases.values()]
        uses = {(each.variant, each.adapters) for each in leases}
        others = self.waiting - sum(not each.accepted for each in leases)  # such as embeddings
        is_of_a_name = len(uses) == 1 and leases[0].variant and leases[0].adapters
        return leases[0] if is_of_a_name and not others else None

    @property
    def occupancy(self) -> Occupancy:
        """Its current use, as input for the decision who gets memory."""
        leaving = self.unloading is not None or self.phase in ("ending", "gone")
        return Occupancy(
            holds=self.holds,
            last_used=self.last_used,
            gives_way=self.phase == "loading" and 0 < self._bets == self.holds,
            leaving=leaving,
        )

    @property
    def is_idle(self) -> bool:
        """Whether it is loaded, not being unloaded, and unused."""
        return self.phase == "loaded" and self.unloading is None and self.holds == 0

    def let_in(self, purpose: Purpose) -> None:
        """Count one more that waits for it."""
        self.waiting += 1
        self._bets += purpose == "preload"

    def let_go(self, purpose: Purpose) -> None:
        """Count one less."""
        self.waiting -= 1
        self._bets -= purpose == "preload"

    def measured(self, memory: ProcessMemory, driver_bytes: Mapping[str, int] | None = None) -> None:
        """Note what its processes have; nothing if they have ended. `driver_bytes`: what their GPUs' driver
        says, by the name of a GPU's memory; None: it was not asked.
        """
        if memory.resident_bytes:
            self.memory = memory
            self.driver_bytes = self.driver_bytes if driver_bytes is None else driver_bytes
            self.peak = self.peak.at_least(Footprint(memory.peak_bytes, self.gpus))

    @property
    def gpus(self) -> Mapping[str, int]:
        """What it has on each GPU: as the driver says, or at least what llama.cpp has allocated there."""
        allocated: Counter[str] = Counter()
        for buffer in self.buffers:
            if buffer.gpu is not None:
                allocated[gpu_name(buffer.gpu)] += buffer.bytes
        return Footprint(0, allocated).at_least(Footprint(0, self.driver_bytes)).gpus

    @property
    def footprint(self) -> Footprint:
        """What its processes had when they were measured last, in each memory."""
        return Footprint(self.memory.resident_bytes, self.gpus)

    @property
    def ready_footprint(self) -> Footprint:
        """The same when it was ready: nothing if it was not measured."""
        return Footprint(self.resident_bytes, self.gpus) if self.resident_bytes else NOTHING

    def recorded(self, seq: int) -> None:
        """Note that its newest event is in the log."""
        self.seq, self.unrecorded = seq, None

    def changed(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_change(self) -> None:
        """Wait until anything about it changes."""
        await self._changed.wait()

    async def wait_loaded(self, tell: Tell | None = None) -> None:
        """Wait until it is loaded, and tell the progress of its load. Raises why it is not loaded."""
        if self.phase == "loading":
            with self.load_trace.waited_for():
                await self._tell_progress(tell)
        if self.phase != "loaded":
            raise self.end_error

    async def _tell_progress(self, tell: Tell | None) -> None:
        told = -1.0
        while self.phase == "loading":
            if tell is not None and self.progress > told:
                told = self.progress
                await tell(Progress(model_id=self.model.model_id, fraction=told))
            else:
                await self.wait_change()

    @property
    def end_error(self) -> SuiteError:
        """The error for one who waited for it, now that it has ended."""
        return self.failure.copy() if self.failure else ActorCrashed()

    async def wait_gone(self) -> None:
        """Wait until its process has ended and its memory is released."""
        while self.phase != "gone":
            await self.wait_change()
