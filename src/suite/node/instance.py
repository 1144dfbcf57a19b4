"""One model on this node, from the start of its load to its end."""

from __future__ import annotations

from typing import Literal, TypeAlias

import anyio
import msgspec
from opentelemetry.context import Context

from suite import telemetry
from suite.catalogue import Model
from suite.domain.residency import Occupancy
from suite.errors import SuiteError
from suite.messages.events import UnloadReason
from suite.node.process import ActorProcess

Phase: TypeAlias = Literal["loading", "loaded", "ending", "gone"]


class Lease(msgspec.Struct, kw_only=True):
    """A running generation's hold on its instance, and whom to tell when the instance dies."""

    reply: str
    stream: bool
    accepted: bool = False
    """The actor has it; before that the hand-over itself answers for it."""


class Instance:
    """What the node knows of a loaded model. The supervisor changes it, and `Generations` its leases."""

    def __init__(self, model: Model, instance_id: str, *, now: float) -> None:
        self.model = model
        self.instance_id = instance_id
        self.phase: Phase = "loading"
        self.progress = 0.0
        self.process: ActorProcess | None = None
        self.failure: SuiteError | None = None
        """Why it is gone, for those who waited for it."""
        self.unloading: UnloadReason | None = None
        """Why it is to leave; None while it stays."""
        self.leave_by: float | None = None
        """When its generations are cancelled if they have not ended; None until its end has begun."""
        self.told_to_end = False
        """Its process was asked to end: what comes now is no crash."""
        self.correlation_id: str | None = None
        """The request that had it loaded."""
        self.leases: dict[str, Lease] = {}
        self.waiting = 0
        """Requests that wait for the load or are about to hand over."""
        self.started = now
        self.last_used = now
        self.loaded_at: str | None = None
        self.last_used_at: str | None = None
        self.load_ms: float | None = None
        self.resident_bytes = 0
        self.freed_bytes = 0
        self.trace: Context | None = telemetry.current()
        """Whose doing its next event is: the load's, then nobody's, then the unload's."""
        self.seq = 0
        """The last event appended about it."""
        self.unrecorded: SuiteError | None = None
        """Why its newest fact is not in the log yet."""
        self._changed = anyio.Event()

    @property
    def holds(self) -> int:
        """What forbids its eviction: generations that run, requests that wait."""
        return len(self.leases) + self.waiting

    @property
    def running(self) -> int:
        """Generations that its actor has, running or waiting there."""
        return sum(lease.accepted for lease in self.leases.values())

    @property
    def occupancy(self) -> Occupancy:
        """Its use at this moment, for the decider."""
        return Occupancy(holds=self.holds, last_used=self.last_used, leaving=self.unloading is not None)

    @property
    def is_idle(self) -> bool:
        """Loaded, staying, and nobody uses it."""
        return self.phase == "loaded" and self.unloading is None and self.holds == 0

    def recorded(self, seq: int) -> None:
        """Its newest fact is in the log."""
        self.seq, self.unrecorded = seq, None

    def changed(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_change(self) -> None:
        """Wait until anything about it changes."""
        await self._changed.wait()

    async def wait_gone(self) -> None:
        """Wait until its process has ended and its memory is back."""
        while self.phase != "gone":
            await self.wait_change()
