"""The node's part in how models share cores: who has a row in the table, who is stopped, how many cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import anyio
import anyio.to_thread
import psutil

from suite.core_table import CoreTable
from suite.machine import Processors
from suite.messages.actor import CoreSeat
from suite.ticks import tick

STOPPED_SECONDS: Final = 0.5
"""How often it is looked for processes that have been stopped, while more than one model is loaded."""
COUNT_SECONDS: Final = 5.0
"""How often cores are counted again: affinity and quota can change at any time."""

_STOPPED: Final = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE)


class NodeCores:
    """The cores of one node, which its busy models share (`suite.core_table`)."""

    def __init__(self, count: Callable[[], Processors]) -> None:
        """`count`: what counts the cores that this process may use."""
        self.table = CoreTable.create()
        self._count = count
        self._processes: dict[int, psutil.Process] = {}
        self._several = anyio.Event()
        self.processors = count()
        """What there is to compute with, as it was last counted."""
        self._set_cores()

    @contextmanager
    def seat(self, threads: int | None) -> Iterator[CoreSeat | None]:
        """A place in the table for a process that ends within the block; None if there is none left.

        `threads`: the most that its model is configured to use.
        """
        row = self.table.take_row()
        if row is None:
            yield None
            return
        try:
            yield CoreSeat(descriptor=self.table.descriptor, row=row, threads=threads)
        finally:
            self._processes.pop(row, None)
            self.table.free_row(row)

    def watch(self, seat: CoreSeat, pid: int) -> None:
        """Look whether the process that has this seat is stopped, until the seat is given back."""
        with suppress(psutil.NoSuchProcess):
            self._processes[seat.row] = psutil.Process(pid)
        if len(self._processes) > 1:
            self._several.set()

    def threads(self, seat: CoreSeat | None) -> int:
        """How many threads the process that has this seat computes with now; 0: it is idle, or waits."""
        return 0 if seat is None else self.table.activity(seat.row).threads

    async def run(self) -> None:
        """Keep the table up to date until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_processes)
            tasks.start_soon(self._watch_cores)

    async def _watch_processes(self) -> None:
        while True:
            await self._several.wait()
            await tick(STOPPED_SECONDS)
            several = len(self._processes) > 1
            for row, process in self._processes.items():
                # What is alone keeps no cores from others, and what is idle uses none.
                matters = several and self.table.activity(row).limit > 0
                self.table.set_stopped(row, matters and _is_stopped(process))
            if not several:
                self._several = anyio.Event()

    async def _watch_cores(self) -> None:
        while True:
            await tick(COUNT_SECONDS)
            # In a thread, because this reads two files for each CPU of the machine.
            self.processors = await anyio.to_thread.run_sync(self._count)
            self._set_cores()

    def _set_cores(self) -> None:
        self.table.set_cores(self.processors.cores.value, self.processors.cpus.value)


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return process.status() in _STOPPED
    except psutil.NoSuchProcess:
        return True
