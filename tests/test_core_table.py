"""The table by which models share cores, between real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from suite.core_table import ROWS, Activity, CoreTable, SharedCores

OTHER = """
import sys
from suite.core_table import SharedCores
cores = SharedCores(int(sys.argv[1]), int(sys.argv[2]), None)
for line in sys.stdin:
    print(cores.due(reading=False, priority=0) if line == "due\\n" else cores.rest(), flush=True)
"""


class Other:
    """Another process with a row of the table."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def __call__(self, order: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def other(table: CoreTable, row: int) -> Iterator[Other]:
    command = [sys.executable, "-c", OTHER, str(table.descriptor), str(row)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[table.descriptor]
    ) as process:
        try:
            yield Other(process)
        finally:
            process.kill()


def table_of(cores: int, cpus: int | None = None) -> CoreTable:
    table = CoreTable.create()
    table.set_cores(cores, cpus or cores)
    return table


def row_of(table: CoreTable) -> int:
    row = table.take_row()
    assert row is not None
    return row


def test_two_processes_share_and_whoever_is_left_has_all() -> None:
    available = len(os.sched_getaffinity(0))
    table = table_of(available)
    here, there = row_of(table), row_of(table)
    cores = SharedCores(table.descriptor, here, None)
    half = max(1, available // 2)
    with other(table, there) as theirs:
        assert cores.due(reading=False, priority=0) == available
        assert theirs("due") == str(half)
        assert table.activity(there) == Activity(available, half, 0, False)
        assert cores.due(reading=False, priority=0) == max(1, available - half)
        theirs("rest")
        assert cores.due(reading=False, priority=0) == available
        theirs("due")
        table.set_stopped(there, True)
        assert cores.due(reading=False, priority=0) == available
        table.set_stopped(there, False)
        assert cores.due(reading=False, priority=0) < available or available == 1
    # It was killed, and its row still says that it is busy until the node hears of its end.
    assert table.activity(there).limit == available
    table.free_row(there)
    assert cores.due(reading=False, priority=0) == available
    cores.rest()
    assert table.activity(here) == Activity(0, 0, 0, False)


def test_what_is_configured_holds_as_far_as_there_are_cpus() -> None:
    available = len(os.sched_getaffinity(0))
    table = table_of(1, available)
    row = row_of(table)
    assert SharedCores(table.descriptor, row, None).due(reading=True, priority=-100) == 1
    assert SharedCores(table.descriptor, row, 1000).due(reading=True, priority=100) == available
    assert table.activity(row) == Activity(available, available, 100, True)
    table.set_cores(1, 1)  # a quota was set meanwhile
    assert SharedCores(table.descriptor, row, 1000).due(reading=False, priority=0) == 1


def test_rows_are_used_again_and_there_is_an_end_of_them() -> None:
    table = table_of(2)
    rows = [table.take_row() for _ in range(ROWS)]
    assert rows == list(range(ROWS)) and table.take_row() is None
    table.free_row(5)
    assert table.take_row() == 5
