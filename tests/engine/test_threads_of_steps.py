"""The engine computes each step with the threads that are due."""

from __future__ import annotations

from contextlib import nullcontext

from suite.engine.engine import Engine, StepStats
from suite.engine.slots import Slots
from support.backend import FakeBackend
from support.generations import asked, drain


class GrowingShare:
    """A thread more at each step; notes what the engine says of itself."""

    def __init__(self) -> None:
        self.told: list[tuple[bool, int]] = []

    def due(self, *, reading: bool, priority: int) -> int:
        self.told.append((reading, priority))
        return len(self.told)

    def rest(self) -> None:
        raise AssertionError("the engine's thread says when there is nothing to do")

    def leave_one(self) -> nullcontext[None]:
        return nullcontext()


def test_each_step_asks_for_threads_and_says_whether_it_reads_and_for_whom() -> None:
    cores, backend = GrowingShare(), FakeBackend(slots=2, context=64, cache=128, batch=4)
    engine = Engine(backend, Slots(2), prompt_step_tokens=4, cores=cores)
    steps: list[StepStats] = []
    engine.on_step = steps.append
    every = [
        asked([1, 2, 3], max_tokens=6, seed=1, priority=-3),
        asked([4, 5, 6], max_tokens=2, seed=1, priority=7),
    ]
    for each in every:
        engine.submit(each.generation, each.heard)
    drain(engine)
    assert cores.told[0] == (True, 7) and cores.told[-1] == (False, -3)
    assert [step.threads for step in steps] == [*range(1, len(cores.told) + 1)]
    assert backend.threads == len(cores.told)
