"""The table by which the models of a node share its cores, in memory that their processes share.

Each process of a model has a row in it. Before each step it writes there what it is doing, reads what the
others do, and computes with the threads that are its share (`suite.domain.cores`). The node writes how many
cores there are, and which processes have been stopped::

    table = CoreTable.create()                  # in the node
    row = table.take_row()                      # before it starts a model's process, which inherits
    ...                                         # table.descriptor
    cores = SharedCores(descriptor, row, None)  # in the model's process
    cores.due(reading=False, priority=0)        # before each step
    cores.rest()                                # when there is nothing to do

There is no lock that a process could take with it when it dies: every cell is one aligned word of 64 bits
with one writer, which is written and read as a whole. The file has no name, so nothing of it stays behind.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Sequence
from typing import Final, NamedTuple

from suite.domain.cores import Claim, share

ROWS: Final = 1000
"""The most models at once that share cores. Any beyond that use all of them."""

_WORD: Final = 8
_HEADER: Final = 3
_CORES, _CPUS, _USED_ROWS = range(_HEADER)
"""The cells of the header, all of them the node's."""
_ACTIVITY, _STOPPED = range(2)
"""The cells of a row: the first is its process's, the second the node's."""
_ROW_CELLS: Final = 2
_SIZE: Final = _WORD * (_HEADER + _ROW_CELLS * ROWS)

_activity = struct.Struct("=HHbBxx")


class Activity(NamedTuple):
    """What a busy process of a model says of itself."""

    limit: int
    """The most threads that it may use; 0: it is idle."""
    threads: int
    """How many it uses in this step."""
    priority: int
    reading: bool

    def to_word(self) -> int:
        """As the word that stands in the table; 0 when idle."""
        return int.from_bytes(_activity.pack(*self), sys.byteorder)

    @classmethod
    def of_word(cls, word: int) -> Activity:
        """The activity that such a word stands for."""
        limit, threads, priority, reading = _activity.unpack(word.to_bytes(_WORD, sys.byteorder))
        return cls(limit, threads, priority, bool(reading))

    @property
    def claim(self) -> Claim:
        """What it counts for when cores are shared."""
        return Claim(self.limit, self.reading, self.priority)


class _Cells:
    """The words of the table."""

    def __init__(self, descriptor: int) -> None:
        self.words: memoryview[int] = memoryview(mmap.mmap(descriptor, _SIZE)).cast("Q")

    def used_rows(self) -> Sequence[int]:
        """The words of all rows that may be in use, one row after the other."""
        return self.words[_HEADER : _cell(self.words[_USED_ROWS], _ACTIVITY)].tolist()


class CoreTable:
    """The node's end of the table."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        """The file descriptor of the table, for the processes of models to inherit."""
        self._words = _Cells(descriptor).words
        self._taken: set[int] = set()

    @classmethod
    def create(cls) -> CoreTable:
        """Make an empty table."""
        descriptor = _nameless_file()
        os.ftruncate(descriptor, _SIZE)
        return cls(descriptor)

    def set_cores(self, cores: int, cpus: int) -> None:
        """Say how many physical cores there are to share, and how many CPUs: the most threads of a model."""
        self._words[_CORES], self._words[_CPUS] = cores, cpus

    def take_row(self) -> int | None:
        """Take a free row for a process that is about to start; None: there is none left."""
        row = next((row for row in range(ROWS) if row not in self._taken), None)
        if row is not None:
            self._taken.add(row)
            self._words[_USED_ROWS] = max(self._taken) + 1
        return row

    def free_row(self, row: int) -> None:
        """Empty the row of a process that has ended."""
        self._words[_cell(row, _ACTIVITY)] = self._words[_cell(row, _STOPPED)] = 0
        self._taken.discard(row)
        self._words[_USED_ROWS] = max(self._taken, default=-1) + 1

    def set_stopped(self, row: int, stopped: bool) -> None:
        """Say whether a process is stopped (SIGSTOP, a debugger), so that others may use its share."""
        self._words[_cell(row, _STOPPED)] = int(stopped)

    def activity(self, row: int) -> Activity:
        """What the process of this row does now."""
        return Activity.of_word(self._words[_cell(row, _ACTIVITY)])


class SharedCores:
    """A model's process's part of the cores. Only the thread that computes may use it."""

    def __init__(self, descriptor: int, row: int, threads: int | None) -> None:
        """`threads`: the most that the model may use; None: as many as there are cores."""
        self._cells = _Cells(descriptor)
        self._row = row
        self._threads = threads
        self._own = _cell(row, _ACTIVITY)
        self._seen: object = None
        self._due = 1

    def due(self, *, reading: bool, priority: int) -> int:
        """How many threads the next step may use. From now on this process counts as busy."""
        rows, limit = self._cells.used_rows(), self._limit()
        seen = rows, limit, reading, priority, self._cells.words[_CORES]
        if seen != self._seen:
            claim = Claim(limit, reading, priority)
            self._due = share(self._cells.words[_CORES], self._others(rows) | {self._row: claim})[self._row]
            self._cells.words[self._own] = Activity(limit, self._due, priority, reading).to_word()
            self._seen = seen
        return self._due

    def rest(self) -> None:
        """Leave all cores to others until the next step."""
        self._cells.words[self._own] = 0
        self._seen = None

    def _others(self, rows: Sequence[int]) -> dict[int, Claim]:
        return {
            row: Activity.of_word(word).claim
            for row, (word, stopped) in enumerate(zip(rows[::2], rows[1::2], strict=True))
            if word and not stopped and row != self._row
        }

    def _limit(self) -> int:
        """The most threads now: cores and affinity may have changed."""
        words = self._cells.words
        most = words[_CORES] if self._threads is None else min(self._threads, words[_CPUS])
        return max(1, min(most, _affinity(), 2**16 - 1))


def _cell(row: int, cell: int) -> int:
    return _HEADER + _ROW_CELLS * row + cell


def _affinity() -> int:
    """How many CPUs the calling thread may run on; Linux lets them be changed at any time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else sys.maxsize


def _nameless_file() -> int:
    """A file in memory, or where the system has none such, an unlinked one on disk."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("suite-cores")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
