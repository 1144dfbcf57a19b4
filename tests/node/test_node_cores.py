"""What the node knows of those that share its cores."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from subprocess import DEVNULL, Popen

import anyio
import pytest

import suite.node.cores
from suite import core_table
from suite.core_table import SharedCores
from suite.machine import Bound, Processors
from suite.messages.actor import CoreSeat
from suite.node.cores import NodeCores


def processors(count: int) -> Processors:
    return Processors(Bound(count, "test"), Bound(count, "test"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four CPUs, which the machine of the tests may not have, and no time between two looks."""
    monkeypatch.setattr(core_table, "_affinity", lambda: 4)
    monkeypatch.setattr(suite.node.cores, "STOPPED_SECONDS", 0.01)
    monkeypatch.setattr(suite.node.cores, "COUNT_SECONDS", 0.01)


@asynccontextmanager
async def running(cores: NodeCores) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cores.run)
        await anyio.wait_all_tasks_blocked()
        yield
        tasks.cancel_scope.cancel()
    cores.table.close()


def no_sleep(_: float) -> None:
    """Others go on with what they have: nothing is waited for."""


class Seated:
    """A process with a seat, for which the test says that it computes."""

    def __init__(self, cores: NodeCores, seat: CoreSeat, process: Popen[bytes]) -> None:
        self.process = process
        self.shared = SharedCores(seat.descriptor, seat.row, seat.threads, no_sleep)
        cores.watch(seat, process.pid)

    def due(self) -> int:
        return self.shared.due(reading=False, priority=0)


@contextmanager
def seated(cores: NodeCores) -> Iterator[Seated]:
    with cores.seat(None) as seat, Popen(["sleep", "60"], stdin=DEVNULL) as process:
        assert seat is not None
        try:
            yield Seated(cores, seat, process)
        finally:
            process.kill()


async def becomes(read: Callable[[], int], expected: int) -> None:
    with anyio.fail_after(10):
        while read() != expected:
            await anyio.sleep(0.01)


async def test_the_share_of_what_is_stopped_goes_to_the_others_until_it_goes_on() -> None:
    cores = NodeCores(lambda: processors(4))
    with ExitStack() as stack:
        async with running(cores):
            with cores.seat(None):
                pass  # as of a standby process that has imported
            one, other = (stack.enter_context(seated(cores)) for _ in range(2))
            other.due()
            await becomes(one.due, 2)
            other.process.send_signal(signal.SIGSTOP)
            await becomes(one.due, 4)
            other.process.send_signal(signal.SIGCONT)
            await becomes(one.due, 2)


async def test_what_was_stopped_counts_again_when_it_is_the_only_one_or_was_idle() -> None:
    cores = NodeCores(lambda: processors(4))
    with ExitStack() as stack, cores.seat(None) as seat:  # one that is not watched
        assert seat is not None
        unwatched = SharedCores(seat.descriptor, seat.row, None, no_sleep)

        def due() -> int:
            return unwatched.due(reading=False, priority=0)

        async with running(cores):
            one = stack.enter_context(seated(cores))
            one.due()
            with seated(cores) as other:
                other.shared.rest()
                await becomes(due, 2)
                one.process.send_signal(signal.SIGSTOP)
                await becomes(due, 4)
                one.shared.rest()
                with one.shared.leave_one():
                    await becomes(due, 3)
                one.due()
                await becomes(due, 4)
            await becomes(due, 2)


async def test_cores_are_counted_while_nothing_is_loaded() -> None:
    count = [4]
    cores = NodeCores(lambda: processors(count[0]))
    async with running(cores):
        assert cores.processors.threads(None) == 4
        count[0] = 2
        await becomes(lambda: cores.processors.threads(None), 2)
        with seated(cores) as one:
            assert one.due() == 2
