"""Measures what memory the models' processes and other programs use, and tells who decides (ADR 42).

What other programs use reduces what the node may admit, not what is loaded already. Page cache is no use: the
kernel drops it when memory is needed.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, NamedTuple

import anyio
import anyio.to_thread

from suite.domain.footprint import Footprint
from suite.gpus import GpuMemory
from suite.machine import Bound
from suite.messages.decisions import RAM
from suite.node.instance import Instance
from suite.process_memory import ProcessMemory
from suite.ticks import tick

LOOK_SECONDS = 1.0
"""How often to measure while memory changes hands: somebody loads, waits, or has just been answered."""
QUIET_SECONDS = 5.0
"""How often to measure otherwise: what a model has changes little, and others may use more."""
_EARLY_SECONDS: Final = 0.5
"""So much earlier a measurement may come: a tick that is too early by a hair would put it off to the next."""

Measure = Callable[[int], ProcessMemory]
"""The memory of a process, by its id, with its helpers. Blocks."""

UNKNOWN_BYTES: Final = 1 << 62
"""Stands for what is available where the system does not say it."""


class _Look(NamedTuple):
    """What was measured at one moment."""

    processes: Mapping[int, ProcessMemory]
    """By process id."""
    available: Bound | None
    gpus: tuple[GpuMemory, ...]

    def on_gpus(self, pid: int) -> dict[str, int]:
        """What a process has on GPUs, as far as the driver tells."""
        return {gpu.memory: gpu.by_process[pid] for gpu in self.gpus if gpu.by_process.get(pid)}


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
        on_available: Callable[[Footprint], None],
    ) -> None:
        """`standby` gives the id of a process that stands ready. `total` is what the node may use of the
        machine, and `available` says how much more it could have now. `gpus` reads the GPUs, and blocks.
        `is_changing`: whether memory changes hands.

        `on_size` is told of each instance that was measured, `on_available` what all of them may have.
        """
        self.standby_bytes = 0
        """What the process that stands ready uses."""
        self.others_bytes: dict[str, int] = {}
        """What other programs use of each memory, and of RAM this node itself beside its models. A memory
        that is left out is not known."""
        self._left_on_gpus: dict[str, int] = {}
        """What other programs leave of each GPU, as it was when the GPU answered last."""
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
            is_old = self._age >= QUIET_SECONDS - _EARLY_SECONDS
            if is_old or self._is_due or self._is_changing():
                await self.look()

    async def look_if_old(self) -> None:
        """Measure before a decision about memory if that was not done just before."""
        if self._age > LOOK_SECONDS:
            await self.look()

    @property
    def _age(self) -> float:
        """How many seconds ago was measured last."""
        return anyio.current_time() - self._looked_at

    def look_soon(self) -> None:
        """Measure at the next tick, because a model was used or has ended."""
        self._is_due = True

    async def look(self) -> None:
        """Measure once, and tell what was found."""
        self._is_due, began = False, anyio.current_time()
        processes = {each: each.process.pid for each in self._instances() if each.process is not None}
        standby = self._standby()
        pids = [*processes.values(), *(() if standby is None else (standby,))]
        look = await anyio.to_thread.run_sync(self._look, pids)
        self.standby_bytes = 0 if standby is None else look.processes[standby].resident_bytes
        for instance, pid in processes.items():
            instance.measured(look.processes[pid], look.on_gpus(pid))
        self._tell_available(look, processes)
        self._looked_at = began
        for instance in processes:
            await self._on_size(instance)

    def _look(self, pids: Iterable[int]) -> _Look:
        """Measure processes, what is available beside them, and the GPUs. Blocks."""
        return _Look({pid: self._measure(pid) for pid in pids}, self._available(), self._gpus())

    def _tell_available(self, look: _Look, processes: Mapping[Instance, int]) -> None:
        """Tell what all models may have beside what others use."""
        ram = UNKNOWN_BYTES
        if look.available is not None:
            own = sum(memory.anonymous_bytes for memory in look.processes.values())
            self.others_bytes[RAM] = max(0, self._total.value - look.available.value - own)
            ram = look.available.value + own
        for gpu in look.gpus:
            others = self._others_on(gpu, processes)
            self.others_bytes[gpu.memory] = others
            self._left_on_gpus[gpu.memory] = gpu.total_bytes - others
        if look.available is not None or self._left_on_gpus:
            self._on_available(Footprint(ram, dict(self._left_on_gpus)))

    def _others_on(self, gpu: GpuMemory, processes: Mapping[Instance, int]) -> int:
        """What other programs use of a GPU. As long as something is loaded there of which the driver does
        not tell how far it is, that is what it was before.
        """
        before = self.others_bytes.get(gpu.memory)
        is_unclear = any(
            each.phase == "loading" and pid not in gpu.by_process for each, pid in processes.items()
        )
        if is_unclear and before is not None:
            return before
        own = sum(instance.gpus.get(gpu.memory, 0) for instance in processes)
        return max(0, gpu.used_bytes - own)
