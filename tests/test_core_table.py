"""The table by which models share cores, between real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from suite import core_table
from suite.core_table import PATIENCE_SECONDS, ROWS, Activity, CoreTable, SharedCores
from suite.domain.cores import Claim, share

OTHER = """
import sys
from contextlib import ExitStack
from suite.core_table import SharedCores
cores = SharedCores(int(sys.argv[1]), int(sys.argv[2]), None, sleep=lambda seconds: None)
helpers = ExitStack()
orders = {
    "due": lambda: cores.due(reading=False, priority=0),
    "rest": cores.rest,
    "help": lambda: helpers.enter_context(cores.leave_one()),
    "end": helpers.close,
}
for line in sys.stdin:
    print(orders[line.strip()](), flush=True)
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
        # Until its process says otherwise it loads a model, which takes one core.
        assert table.busy and table.activity(there).threads == 1
        assert cores.due(reading=False, priority=0) == max(1, available - 1)
        theirs("rest")
        assert cores.due(reading=False, priority=0) == available
        assert theirs("due") == str(half)
        assert table.activity(there) == Activity(available, half, 0, False)
        assert cores.due(reading=False, priority=0) == max(1, available - half)
        theirs("rest")
        assert cores.due(reading=False, priority=0) == available
        theirs("help")  # say, with a grammar
        assert cores.due(reading=False, priority=0) == max(1, available - 1)
        theirs("end")
        assert cores.due(reading=False, priority=0) == available
        theirs("help")
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
    assert table.activity(here) == Activity(0, 0, 0, False) and not table.busy


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


@pytest.fixture
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> CoreTable:
    """A table of a machine with four cores, which the machine of the tests may not have."""
    monkeypatch.setattr(core_table, "_affinity", lambda: 4)
    return table_of(4)


class Sleep:
    """Time that passes at once. Each of `events` happens in one sleep, then nothing more."""

    def __init__(self, *events: Callable[[], object]) -> None:
        self.sleeps: list[float] = []
        self._events = events

    def __call__(self, seconds: float) -> None:
        if len(self.sleeps) < len(self._events):
            self._events[len(self.sleeps)]()
        self.sleeps.append(seconds)


def begin(cores: SharedCores) -> int:
    return cores.due(reading=False, priority=0)


def test_a_step_waits_for_one_that_began_with_all_cores(four_cpus: CoreTable) -> None:
    here = row_of(four_cpus)
    first = SharedCores(four_cpus.descriptor, here, None)
    assert begin(first) == 4
    there = row_of(four_cpus)

    def look() -> None:
        assert four_cpus.activity(there) == Activity(limit=4, threads=0, priority=0, reading=False)
        assert four_cpus.busy

    sleep = Sleep(look, look, lambda: begin(first))
    second = SharedCores(four_cpus.descriptor, there, None, sleep)
    assert begin(second) == 2 and len(sleep.sleeps) == 3
    assert [four_cpus.activity(row).threads for row in (here, there)] == [2, 2]
    first.rest()
    assert begin(second) == 4 and len(sleep.sleeps) == 3


def test_those_that_wait_do_not_wait_for_each_other(four_cpus: CoreTable) -> None:
    rows = [row_of(four_cpus)]
    old = SharedCores(four_cpus.descriptor, rows[0], None)
    assert begin(old) == 4
    rows += [row_of(four_cpus), row_of(four_cpus)]
    inner = Sleep(lambda: begin(old))
    one = SharedCores(four_cpus.descriptor, rows[1], None, inner)
    outer = Sleep(lambda: begin(one))
    other = SharedCores(four_cpus.descriptor, rows[2], None, outer)
    begin(other)
    assert (len(inner.sleeps), len(outer.sleeps)) == (1, 1)
    assert sum(four_cpus.activity(row).threads for row in rows) == 4


def test_of_two_that_begin_at_the_same_time_neither_takes_all(
    four_cpus: CoreTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row_of(four_cpus), row_of(four_cpus)]
    one, other = (SharedCores(four_cpus.descriptor, row, None, Sleep()) for row in rows)
    other.rest()
    begins = [other]

    def share_meanwhile(cores: int, claims: Mapping[int, Claim], helpers: int = 0) -> dict[int, int]:
        """The other one begins after this one has looked, before it has said what it takes."""
        shares = share(cores, claims, helpers)
        while begins:
            begin(begins.pop())
        return shares

    monkeypatch.setattr(core_table, "share", share_meanwhile)
    assert begin(one) == 2
    assert [four_cpus.activity(row).threads for row in rows] == [2, 2]


def test_nobody_waits_for_what_is_stopped_or_has_ended(four_cpus: CoreTable) -> None:
    first_row = row_of(four_cpus)
    first = SharedCores(four_cpus.descriptor, first_row, None)
    assert begin(first) == 4
    row = row_of(four_cpus)

    four_cpus.set_stopped(first_row, True)
    sleep = Sleep()
    assert begin(SharedCores(four_cpus.descriptor, row, None, sleep)) == 4 and not sleep.sleeps
    four_cpus.set_stopped(first_row, False)

    sleep = Sleep(lambda: four_cpus.set_stopped(first_row, True))
    assert begin(SharedCores(four_cpus.descriptor, row, None, sleep)) == 4 and len(sleep.sleeps) == 1
    four_cpus.set_stopped(first_row, False)

    sleep = Sleep(lambda: four_cpus.free_row(first_row))
    assert begin(SharedCores(four_cpus.descriptor, row, None, sleep)) == 4 and len(sleep.sleeps) == 1


def test_a_step_does_not_wait_for_ever(four_cpus: CoreTable) -> None:
    assert begin(SharedCores(four_cpus.descriptor, row_of(four_cpus), None)) == 4
    row, sleep = row_of(four_cpus), Sleep()
    cores = SharedCores(four_cpus.descriptor, row, None, sleep)
    assert begin(cores) == 2
    assert sum(sleep.sleeps) == pytest.approx(PATIENCE_SECONDS)
    assert four_cpus.activity(row).threads == 2
    slept = len(sleep.sleeps)
    assert begin(cores) == 2 and len(sleep.sleeps) == slept, "it has waited for that one"
