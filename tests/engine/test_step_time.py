"""Steps are bounded by time: answers wait for no more of a prompt than that, and every prompt goes on."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.engine.engine import Engine
from suite.engine.generation import EngineRequest, Generation
from suite.engine.scheduler import MOST_PATIENCE, Run, Scheduler, step_work
from suite.engine.slots import Slot, Slots
from suite.engine.step_time import Piece, StepTime, StepWork
from support.backend import FakeBackend
from support.generations import Clock, Heard, asked, sampling

LIMIT = 0.15


class Machine:
    """How long steps take on some machine with some model."""

    def __init__(self, answer: float, prompt: float, deep: float, fixed: float = 0.0) -> None:
        self.answer, self.prompt, self.deep, self.fixed = answer, prompt, deep, fixed

    def seconds(self, work: StepWork) -> float:
        return (
            self.fixed
            + work.answers * self.answer
            + sum(
                piece.tokens * (self.prompt + self.deep * (piece.position + piece.tokens / 2))
                for piece in work.pieces
            )
        )


machines = st.builds(
    Machine,
    answer=st.floats(0.001, 0.2),
    prompt=st.floats(0.0001, 0.05),
    deep=st.floats(0, 1e-5),
)
usual_machines = st.builds(
    Machine,
    answer=st.floats(0.0005, 0.008),
    prompt=st.floats(0.001, 0.01),
    deep=st.floats(0, 2e-6),
    fixed=st.floats(0, 0.04),
)


def learned(machine: Machine, works: list[StepWork], *, rounds: int = 20) -> StepTime:
    times = StepTime()
    for _ in range(rounds):
        for work in works:
            times.learn(work, machine.seconds(work))
    return times


def test_it_knows_what_answers_and_prompts_take_at_which_depth() -> None:
    machine = Machine(0.01, 0.002, 2e-6)
    places = [0, 300, 600, 1200, 2400]
    times = learned(machine, [StepWork(4, []), *(StepWork(4, [Piece(at, 32)]) for at in places)])
    assert times.answers(4) == pytest.approx(0.04)
    for at in places:
        assert times.tokens_within(0.1, at) == pytest.approx(0.1 / (0.002 + 2e-6 * (at + 16)), rel=0.05)


def test_one_slow_step_changes_little_and_another_speed_is_followed() -> None:
    machine = Machine(0.01, 0.002, 0)
    piece = StepWork(4, [Piece(0, 32)])
    times = learned(machine, [StepWork(4, []), piece])
    times.learn(piece, 5.0)
    assert times.tokens_within(0.1, 0) >= 50 / 1.4 - 1
    half = Machine(0.02, 0.004, 0)
    for _ in range(6):
        times.learn(piece, half.seconds(piece))
    assert times.answers(4) + times.prompts(piece.pieces) == pytest.approx(half.seconds(piece), rel=0.1)


def test_answers_that_are_never_alone_are_known_too() -> None:
    machine = Machine(0.5, 0.06, 0)
    times = learned(machine, [StepWork(0, [Piece(0, 32)])])
    for _ in range(20):
        work = StepWork(1, [Piece(0, times.tokens_within(times.answers(1) or LIMIT, 0))])
        times.learn(work, machine.seconds(work))
    assert times.answers(1) == pytest.approx(0.5)
    assert times.tokens_within(times.answers(1), 0) == 8


def test_depths_that_were_never_measured_are_thought_slow() -> None:
    times = learned(Machine(0.01, 0.002, 0), [StepWork(0, [Piece(0, 100)])])
    fitting = [times.tokens_within(1.0, at) for at in (0, 256, 512, 1024)]
    assert all(later == pytest.approx(before / 2, abs=1) for before, later in pairwise(fitting))


@given(usual_machines, st.integers(0, 4000))
def test_a_depth_that_was_never_measured_is_known_after_two_steps(machine: Machine, depth: int) -> None:
    times = learned(machine, [StepWork(1, []), StepWork(1, [Piece(0, 32)])])
    for _ in range(2):
        work = StepWork(1, [Piece(depth, max(1, min(256, times.tokens_within(LIMIT, depth))))])
        times.learn(work, machine.seconds(work))
    assert times.prompts(work.pieces) == pytest.approx(
        machine.seconds(work) - machine.seconds(StepWork(1, [])), rel=0.3
    )


def test_a_clock_that_stands_still_bounds_nothing() -> None:
    times = StepTime()
    assert times.tokens_within(LIMIT, 0) > 10_000
    for _ in range(100):
        times.learn(StepWork(1, [Piece(0, 8)]), 0.0)
        times.learn(StepWork(2, []), 0.0)
    assert times.tokens_within(LIMIT, 0) > 10_000


# --- what the scheduler makes of it -----------------------------------------------------------------------


def run_of(prompt: int, *, arrival: int, priority: int = 0) -> Run:
    request = EngineRequest(
        prompt=[arrival] * prompt,
        max_tokens=8,
        stop=(),
        sampling=sampling(),
        conversation_id=None,
        priority=priority,
    )
    return Run(Generation(request, Clock()), Heard(), arrival, 0.0)


@settings(max_examples=150, deadline=None)
@given(
    machines,
    st.integers(0, 8),
    st.lists(st.tuples(st.integers(2, 600), st.integers(-2, 2)), min_size=1, max_size=5),
    st.integers(16, 256),
)
def test_a_step_keeps_to_its_time_and_every_prompt_is_read(
    machine: Machine, answers: int, prompts: list[tuple[int, int]], most: int
) -> None:
    scheduler = Scheduler(batch_tokens=512, prompt_step_tokens=most, max_step_seconds=LIMIT)
    known = StepTime()
    runs = [run_of(1, arrival=number) for number in range(answers)]
    runs += [run_of(length, arrival=10 + n, priority=rank) for n, (length, rank) in enumerate(prompts)]
    for number, run in enumerate(runs):
        run.slot, run.prefilled = Slot(number), number < answers
        scheduler.enqueue(run)
        scheduler.start(run)
    reading = runs[answers:]
    while any(run.pending for run in reading):
        shares = scheduler.next_batch()
        work = step_work(shares)
        tokens = sum(piece.tokens for piece in work.pieces)
        assert tokens >= 1, "in every step something is read"
        assert work.answers == answers
        if answers:
            estimate = known.answers(answers) + known.prompts(work.pieces)
            patience = min(MOST_PATIENCE, sum(not run.prefilled for run in scheduler.running))
            bound = max(LIMIT * patience, 2 * known.answers(answers))
            assert tokens <= most * patience and (tokens == 1 or estimate <= bound + 1e-9)
        first = min((run for run in reading if run.pending), key=lambda run: run.rank)
        assert any(share.run is first for share in shares), "those of the best rank are read first"
        whole = [share.run for share in shares if share.run in reading and share.samples]
        parts = [share.run for share in shares if share.run in reading and not share.samples]
        assert len(parts) <= 1 and all(run.rank < part.rank for run in whole for part in parts)
        for each in (scheduler, known):
            each.learn(work, machine.seconds(work))
        for run, count, _ in shares:
            if run in reading:
                assert run.slot is not None
                run.slot.tokens += run.pending[:count]
                del run.pending[:count]
        for run in [run for run in reading if not run.pending]:
            scheduler.remove(run)
            reading.remove(run)


@settings(max_examples=150, deadline=None)
@given(
    usual_machines,
    st.integers(300, 1500),
)
def test_steps_keep_to_their_time_while_prompts_without_a_break_become_answers(
    machine: Machine, length: int
) -> None:
    scheduler = Scheduler(batch_tokens=512, prompt_step_tokens=256, max_step_seconds=LIMIT)
    for arrival in range(16):
        reading = run_of(length, arrival=arrival)
        reading.slot = Slot(arrival)
        scheduler.enqueue(reading)
        scheduler.start(reading)
        taken: list[float] = []
        while reading.pending:
            work = step_work(shares := scheduler.next_batch())
            taken.append(machine.seconds(work) / max(LIMIT, 2 * machine.seconds(StepWork(arrival, []))))
            scheduler.learn(work, machine.seconds(work))
            count = next(share.tokens for share in shares if share.run is reading)
            reading.slot.tokens += reading.pending[:count]
            del reading.pending[:count]
        reading.pending, reading.prefilled = [1], True
        assert arrival == 0 or all(each < 1.25 for each in taken[3:])
        for _ in range(5 if arrival == 0 else 0):
            scheduler.learn(StepWork(1, []), machine.seconds(StepWork(1, [])))


class TimedBackend(FakeBackend):
    """It takes as long as a machine does, on a clock of its own."""

    def __init__(self, machine: Machine, clock: Clock, *, slots: int = 6) -> None:
        super().__init__(slots=slots, context=4000, cache=10_000, batch=512)
        self._machine, self._clock = machine, clock
        self._begun = 0.0

    def decode(self, entries):  # type: ignore[no-untyped-def]
        pieces = [Piece(entry.position, len(entry.tokens)) for entry in entries if len(entry.tokens) > 1]
        self._begun += self._machine.seconds(StepWork(len(entries) - len(pieces), pieces))
        if not self.in_background or any(entry.wants_logits for entry in entries):
            self._clock.now += self._begun
            self._begun = 0.0
        return super().decode(entries)


def test_what_went_between_two_steps_counts() -> None:
    clock = Clock()
    backend = TimedBackend(Machine(0.005, 0.002, 0), clock)
    engine = Engine(backend, Slots(6), prompt_step_tokens=256, max_step_seconds=LIMIT, clock=clock)
    running, long = asked([1], max_tokens=500, seed=5), asked([2] * 1000, max_tokens=1)
    engine.submit(running.generation, running.heard)
    engine.step()
    engine.submit(long.generation, long.heard)
    pieces: list[int] = []
    for number in range(20):
        clock.now += 0.1 * (number % 2)
        engine.step()
        pieces.append(max(len(entry.tokens) for entry in backend.batches[-1]))
    assert pieces[-1] < pieces[-2] / 2 and pieces[-1] > 1


@pytest.mark.parametrize(("in_background", "least"), [(False, 30), (True, 25)])
def test_each_step_is_learned_from_where_its_own_time_is_known(in_background: bool, least: int) -> None:
    clock = Clock()
    backend = TimedBackend(Machine(0.005, 0.002, 1e-5), clock)
    backend.in_background = in_background
    engine = Engine(backend, Slots(6), prompt_step_tokens=256, max_step_seconds=LIMIT, clock=clock)
    first, second = asked([1] * 600, max_tokens=500, seed=5), asked([2] * 1000, max_tokens=1)
    engine.submit(first.generation, first.heard)
    for _ in range(3):
        engine.step()
    engine.submit(second.generation, second.heard)
    engine.step()
    assert max(len(entry.tokens) for entry in backend.batches[-1]) >= least
