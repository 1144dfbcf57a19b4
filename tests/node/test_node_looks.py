"""What a node looks at again and again it looks at no oftener than it must (ADR 47)."""

from __future__ import annotations

import pytest

from suite.machine import Bound
from suite.node import memory_watch
from suite.node.memory_watch import MemoryWatch
from suite.process_memory import ProcessMemory
from suite.tasks import background
from suite.ticks import tick
from support.nats import eventually


class Machine:
    """Counts how often it is looked at."""

    def __init__(self) -> None:
        self.looks = 0

    def available(self) -> Bound:
        self.looks += 1
        return Bound(1, "test")


async def some_ticks() -> None:
    for _ in range(5):
        await tick(memory_watch.LOOK_SECONDS)


async def test_memory_is_measured_seldom_unless_it_changes_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_watch, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(memory_watch, "QUIET_SECONDS", 3600.0)
    machine, is_changing = Machine(), [False]

    async def ignore(_: object) -> None:
        pass

    watch = MemoryWatch(
        instances=lambda: (),
        standby=lambda: None,
        measure=lambda _: ProcessMemory(),
        total=Bound(1, "test"),
        available=machine.available,
        gpus=lambda: (),
        is_changing=lambda: is_changing[0],
        on_size=ignore,
        on_available=lambda _: None,
    )
    async with background() as tasks:
        tasks.start_soon(watch.run)
        await eventually(lambda: machine.looks == 1)
        await some_ticks()
        assert machine.looks == 1
        watch.look_soon()
        await eventually(lambda: machine.looks == 2)
        await some_ticks()
        assert machine.looks == 2, "one look is enough when a model was used"
        is_changing[0] = True
        await eventually(lambda: machine.looks >= 5)
