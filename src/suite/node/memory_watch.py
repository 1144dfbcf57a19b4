"""Measures what memory the models' processes and other programs use, and tells who decides (ADR 42).

What other programs use reduces what the node may admit, not what is loaded already. Page cache is no use: the
kernel drops it when memory is needed.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable

import anyio
import anyio.to_thread

from suite.gpus import GpuMemory
from suite.machine import Bound
from suite.node.instance import Instance
from suite.process_memory import ProcessMemory
from suite.ticks import tick

LOOK_SECONDS = 1.0
"""How often to measure while memory changes hands: somebody loads, waits, or has just been answered."""
QUIET_SECONDS = 5.0
"""How often to measure otherwise: what a model has changes little, and others may use more."""

Measure = Callable[[int], ProcessMemory]
"""The memory of a process, by its id, with its helpers. Blocks."""


class MemoryWatch:
    """The memory of one node, as it was measured last."""

    def __init__(
        self,
        *,
        instances: Callable[[], Iterable[Instance]],
        standby: Callable[[], int | None],
        measure: Measure,
        total: Bound,
        available: Callable[[], Bound | None],
        gpus: Callable[[], tuple[GpuMemory, ...]],
        is_changing: Callable[[], bool],
        on_size: Callable[[Instance], Awaitable[None]],
        on_available: Callable[[int], None],
    ) -> None:
        """`standby` gives the id of a process that stands ready. `total` is what the node may use of the
        machine, and `available` says how much more it could have now. `gpus` reads the GPUs, and blocks.
        `is_changing`: whether memory changes hands.

        `on_size` is told of each instance that was measured, `on_available` what all of them may have.
        """
        self.standby_bytes = 0
        """What the process that stands ready uses."""
        self.others_bytes: int | None = None
        """What other programs use of the machine, and this node itself beside its models; None: not known."""
        self.gpus: tuple[GpuMemory, ...] = ()
        """The memories of GPUs."""
        self._instances = instances
        self._standby = standby
        self._measure = measure
        self._total = total
        self._available = available
        self._gpus = gpus
        self._is_changing = is_changing
        self._is_due = False
        self._looked_at = -math.inf
        self._on_size = on_size
        self._on_available = on_available

    async def run(self) -> None:
        """Measure again and again, until cancelled."""
        while True:
            await tick(LOOK_SECONDS)
            is_old = anyio.current_time() - self._looked_at >= QUIET_SECONDS
            if is_old or self._is_due or self._is_changing():
                await self.look()

    def look_soon(self) -> None:
        """Measure at the next tick, because a model was used or has ended."""
        self._is_due = True

    async def look(self) -> None:
        """Measure once, and tell what was found."""
        self._is_due, self._looked_at = False, anyio.current_time()
        processes = {each: each.process.pid for each in self._instances() if each.process is not None}
        standby = self._standby()
        pids = [*processes.values(), *(() if standby is None else (standby,))]
        found, available, self.gpus = await anyio.to_thread.run_sync(self._look, pids)
        self.standby_bytes = 0 if standby is None else found[standby].resident_bytes
        if available is not None:
            own = sum(memory.anonymous_bytes for memory in found.values())
            self.others_bytes = max(0, self._total.value - available.value - own)
            self._on_available(available.value + own)
        for instance, pid in processes.items():
            instance.measured(found[pid])
            await self._on_size(instance)

    def _look(
        self, pids: Iterable[int]
    ) -> tuple[dict[int, ProcessMemory], Bound | None, tuple[GpuMemory, ...]]:
        """Measure processes, what is available beside them, and the GPUs. Blocks."""
        return {pid: self._measure(pid) for pid in pids}, self._available(), self._gpus()
