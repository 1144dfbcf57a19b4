"""Ends the processes of instances: when nothing runs in them any more, or at a deadline."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio

from suite import telemetry
from suite.errors import SuiteError
from suite.identity import Clock
from suite.messages.events import UnloadReason
from suite.node.instance import Departure, Instance
from suite.node.process import STOP_SECONDS
from suite.tasks import Spawn


class Unloads:
    """The unloads of one node."""

    def __init__(self, spawn: Spawn, why_cut: Callable[[Instance], SuiteError], clock: Clock) -> None:
        """`spawn` has them run. `why_cut`: what a client gets whose generation an unload has cut."""
        self.process_seconds = STOP_SECONDS
        """How long a process that was told to end may take before it is killed."""
        self._spawn = spawn
        self._why_cut = why_cut
        self._clock = clock

    def begin(self, instance: Instance, reason: UnloadReason, deadline: float, departure: Departure) -> None:
        """Unload an instance. If that is under way, this can only shorten its deadline (clock time)."""
        if instance.leave_by is not None:
            if deadline < instance.leave_by:
                instance.leave_by = deadline
                instance.changed()
        elif instance.unloading is None:
            instance.unloading = reason
            instance.departure = departure
            self._begin_end(instance, deadline)
        # else its eviction is being decided: `begin_evicted` begins the end, or it is not evicted after all

    def begin_evicted(self, instance: Instance, departure: Departure) -> None:
        """Unload an instance whose eviction was decided."""
        instance.departure = departure
        self._begin_end(instance, self._clock())

    def _begin_end(self, instance: Instance, deadline: float) -> None:
        instance.leave_by = deadline
        instance.unused_seconds = 0.0 if instance.holds else round(self._clock() - instance.last_used, 3)
        instance.trace = telemetry.current()
        instance.changed()
        self._spawn(partial(self._end, instance))

    async def _end(self, instance: Instance) -> None:
        """Wait for the instance's generations until its deadline, then end its process."""
        while instance.leases and instance.phase in ("loading", "loaded"):
            assert instance.leave_by is not None
            left = instance.leave_by - self._clock()
            if left <= 0:
                break
            with anyio.move_on_after(left):
                await instance.wait_change()
        instance.told_to_end = True
        if instance.process is not None:
            instance.measured(instance.process.memory())
            instance.freed_bytes = instance.footprint.total
            reason = self._why_cut(instance) if instance.phase == "loaded" else None  # a load has no clients
            await instance.process.stop(reason, seconds=self.process_seconds)
