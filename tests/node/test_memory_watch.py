"""What is measured of the memories of a node, and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from suite.domain.footprint import Footprint
from suite.gpus import GpuMemory
from suite.machine import Bound
from suite.node.instance import Instance
from suite.node.memory_watch import UNKNOWN_BYTES, MemoryWatch
from suite.process_memory import ProcessMemory

TOTAL = 1000


@dataclass
class Process:
    pid: int


@dataclass(eq=False)
class Measured:
    """An instance, as far as it is measured: what llama.cpp says of it, and what the driver says."""

    pid: int
    allocated: int = 0
    phase: str = "loaded"
    on_gpus: Mapping[str, int] = field(default_factory=dict)

    @property
    def process(self) -> Process:
        return Process(self.pid)

    @property
    def gpus(self) -> Mapping[str, int]:
        return Footprint(0, {"gpu0": self.allocated}).at_least(Footprint(0, self.on_gpus)).gpus

    def measured(self, _: ProcessMemory, on_gpus: Mapping[str, int]) -> None:
        self.on_gpus = on_gpus


class Machine:
    """One GPU, and RAM."""

    def __init__(self, *instances: Measured, ram: int | None = 500) -> None:
        self.instances = instances
        self.gpus: tuple[GpuMemory, ...] = (GpuMemory(index=0, name="A2", total_bytes=TOTAL, used_bytes=0),)
        self.available: list[Footprint] = []
        self._ram = ram
        self.watch = MemoryWatch(
            instances=lambda: cast(list[Instance], list(self.instances)),
            standby=lambda: None,
            measure=lambda _: ProcessMemory(anonymous_bytes=10, file_bytes=5),
            total=Bound(TOTAL, ""),
            available=lambda: None if self._ram is None else Bound(self._ram, ""),
            gpus=lambda: self.gpus,
            is_changing=lambda: False,
            on_size=self._on_size,
            on_available=self.available.append,
        )

    async def _on_size(self, _: Instance) -> None:
        pass

    async def look(self, used: int, **by_pid: int) -> Footprint:
        """What all models may have, once so much of the GPU is used, and by these processes."""
        processes = {int(pid.removeprefix("p")): count for pid, count in by_pid.items()}
        (gpu,) = self.gpus
        self.gpus = (
            GpuMemory(index=0, name=gpu.name, total_bytes=TOTAL, used_bytes=used, by_process=processes),
        )
        await self.watch.look()
        return self.available[-1]


async def test_what_others_use_of_a_gpu_is_what_is_used_less_what_models_have() -> None:
    machine = Machine(Measured(7, allocated=200))
    assert await machine.look(300) == Footprint(510, {"gpu0": 900}), "as llama.cpp says, or"
    assert await machine.look(400, p7=350) == Footprint(510, {"gpu0": 950}), "as the driver says"
    assert machine.watch.others_bytes == {"ram": 490, "gpu0": 50}
    assert machine.instances[0].gpus == {"gpu0": 350}


async def test_a_load_of_which_the_driver_tells_nothing_is_not_taken_for_another_program() -> None:
    loaded, loading = Measured(7, allocated=200), Measured(8, phase="loading")
    machine = Machine(loaded)
    assert (await machine.look(300))["gpu0"] == 900
    machine.instances = (loaded, loading)
    assert (await machine.look(600))["gpu0"] == 900
    assert (await machine.look(600, p8=100))["gpu0"] == 700, "two others came, as is known by now"
    loading.phase, loading.allocated = "loaded", 300
    assert (await machine.look(600))["gpu0"] == 900


async def test_a_decision_is_made_of_what_was_measured_just_before() -> None:
    machine = Machine()
    await machine.watch.look_if_old()
    await machine.watch.look_if_old()
    assert len(machine.available) == 1


async def test_a_gpu_that_does_not_answer_is_as_it_was() -> None:
    machine = Machine(ram=None)
    assert await machine.look(300) == Footprint(UNKNOWN_BYTES, {"gpu0": 700})
    machine.gpus = ()
    await machine.watch.look()
    assert machine.available[-1] == Footprint(UNKNOWN_BYTES, {"gpu0": 700})
    assert machine.watch.others_bytes == {"gpu0": 300}
