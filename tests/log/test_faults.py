"""Whatever gets lost on the way: no acknowledged event is missing, none is there twice, one writer wins.

The faults are real: a wire that loses what the server answers, connections that are cut, a server that is
killed and started again.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.errors import Conflict, SuiteError, Unavailable, UnknownOutcome
from suite.log import Expectation, Log
from suite.messages.envelope import Recorded
from suite.messages.events import Event
from support.faults import KillableServer, LossyWire
from support.journal import SUBJECTS, generated, loaded, open_log, removed, started

MODEL = SUBJECTS.aggregate("model", "m")
FENCE = SUBJECTS.event("node", ("box1",), "started")
BURST = 100

Kind = Literal["decision", "decision of several", "fenced", "fenced several", "burst"]
Fault = Literal["none", "answers lost", "answers lost, then cut", "cut"]


@dataclass
class Attempt:
    """One append, what it was to find, and what its caller was told."""

    names: list[str]
    expect: Expectation | None = None
    outcome: int | SuiteError | None = None

    async def run(self, log: Log, make: Callable[[str], Event]) -> None:
        events = [make(name) for name in self.names]
        try:
            self.outcome = await log.append(*events, expect=self.expect)
        except (Conflict, UnknownOutcome, Unavailable) as error:
            self.outcome = error


@dataclass
class Step:
    """What the writer behind the lossy wire does, what the wire does, and whether a rival comes between."""

    kind: Kind
    fault: Fault
    rival: bool
    stale: bool
    delay_ms: int


@dataclass
class Run:
    """A writer whose wire loses things, a rival whose wire does not, and all that both attempted."""

    log: Log
    rival: Log
    wire: LossyWire
    attempts: list[Attempt] = field(default_factory=list)
    names: Iterator[str] = field(default_factory=lambda: (str(number) for number in range(1_000_000)))

    async def step(self, step: Step) -> None:
        attempts = await self._attempts(step)
        fenced = step.kind.startswith("fenced")
        make = _makers[step.kind]
        self.wire.deaf = step.fault.startswith("answers lost")
        async with anyio.create_task_group() as tasks:
            for attempt in attempts:
                tasks.start_soon(attempt.run, self.log, make)
            await anyio.sleep(step.delay_ms / 1000)
            if step.rival:
                await self._rival_step(fenced)
            if step.fault.endswith("cut"):
                self.wire.cut()
            self.wire.deaf = False

    async def _attempts(self, step: Step) -> list[Attempt]:
        if step.kind == "burst":
            attempts = [Attempt([next(self.names)]) for _ in range(BURST)]
        else:
            subject = FENCE if step.kind.startswith("fenced") else MODEL
            newest = await self.rival.last(subject)
            last_seq = max(0, (newest.seq if newest else 0) - (1 if step.stale else 0))
            names = [next(self.names) for _ in range(3 if "several" in step.kind else 1)]
            attempts = [Attempt(names, Expectation(subject=subject, last_seq=last_seq))]
        self.attempts += attempts
        return attempts

    async def _rival_step(self, fenced: bool) -> None:
        subject = FENCE if fenced else MODEL
        newest = await self.rival.last(subject)
        attempt = Attempt(
            [next(self.names)], Expectation(subject=subject, last_seq=newest.seq if newest else 0)
        )
        self.attempts.append(attempt)
        await attempt.run(self.rival, _epoch if fenced else _decision)


def _decision(name: str) -> Event:
    return removed(name)


def _epoch(name: str) -> Event:
    return started(int(name))


def _fenced(name: str) -> Event:
    return loaded(int(name))


def _plain(name: str) -> Event:
    return generated(name)


_makers: dict[Kind, Callable[[str], Event]] = {
    "decision": _decision,
    "decision of several": _decision,
    "fenced": _fenced,
    "fenced several": _fenced,
    "burst": _plain,
}


def check(attempts: list[Attempt], stored: list[Recorded], *, unknown_allowed: bool = False) -> None:
    """Everybody was told the truth."""
    places: dict[str, int] = {}
    for event in stored:
        name = _name(event)
        assert name not in places, f"{name} is stored twice"
        places[name] = event.seq
    for attempt in attempts:
        found = [places[name] for name in attempt.names if name in places]
        match attempt.outcome:
            case int(seq):
                assert found == list(range(seq - len(attempt.names) + 1, seq + 1)), attempt
            case UnknownOutcome():
                assert unknown_allowed, attempt
                assert len(found) in (0, len(attempt.names)), attempt
            case _:
                assert found == [], attempt
        if attempt.expect is not None:
            _check_expectation(attempt, attempt.expect, stored, found)


def _check_expectation(
    attempt: Attempt, expect: Expectation, stored: list[Recorded], found: list[int]
) -> None:
    prefix = expect.subject.removesuffix(">")
    guarded = [event.seq for event in stored if event.subject.startswith(prefix)]
    if found:
        before = [seq for seq in guarded if seq < found[0]]
        assert (before or [0])[-1] == expect.last_seq, f"{attempt} won against what it expected"
    elif isinstance(attempt.outcome, Conflict):
        assert expect.last_seq not in guarded[-1:] or guarded == [], f"{attempt} lost against nobody"


def _name(event: Recorded) -> str:
    for field_name in ("generation_id", "pid"):
        if hasattr(event.data, field_name):
            return str(getattr(event.data, field_name))
    return str(getattr(event.data, "node"))  # noqa: B009 - which event it is shows only now


_steps = st.builds(
    Step,
    kind=st.sampled_from(["decision", "decision of several", "fenced", "fenced several", "burst"]),
    fault=st.sampled_from(["none", "answers lost", "answers lost, then cut", "cut"]),
    rival=st.booleans(),
    stale=st.sampled_from([False, False, False, True]),
    delay_ms=st.sampled_from([0, 1, 3, 10, 40]),
)


@pytest.mark.timeout(180)
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
@given(steps=st.lists(_steps, min_size=2, max_size=5))
async def test_with_two_writers_and_lost_answers_everybody_is_told_the_truth(steps: list[Step]) -> None:
    logging.getLogger("suite.bus").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as directory:
        async with (
            KillableServer.start(Path(directory)) as server,
            LossyWire.open(server.port) as wire,
            open_log(server.access) as (_, rival),
            open_log(wire.access, attempt_seconds=0.15) as (_, log),
        ):
            run = Run(log, rival, wire)
            await run.step(Step("burst", "none", False, False, 0))  # from here on the costs are known
            for step in steps:
                await run.step(step)
            check(run.attempts, [event async for event in rival.read()])


@pytest.mark.parametrize("kind", ["decision", "decision of several", "fenced", "fenced several", "burst"])
async def test_an_append_whose_answer_is_lost_and_overtaken_is_known_to_be_stored(
    kind: Kind, tmp_path: Path
) -> None:
    async with (
        KillableServer.start(tmp_path) as server,
        LossyWire.open(server.port) as wire,
        open_log(server.access) as (_, rival),
        open_log(wire.access, attempt_seconds=0.3) as (_, log),
    ):
        run = Run(log, rival, wire)
        await run.step(Step("burst", "none", False, False, 0))
        attempts = await run._attempts(Step(kind, "answers lost", True, False, 0))
        wire.deaf = True
        async with anyio.create_task_group() as tasks:
            for attempt in attempts:
                tasks.start_soon(attempt.run, log, _makers[kind])
            with anyio.fail_after(5):
                while len([event async for event in rival.read()]) < BURST + sum(
                    len(attempt.names) for attempt in attempts
                ):
                    await anyio.sleep(0.01)
            for _ in range(3):
                await run._rival_step(kind.startswith("fenced"))
            wire.cut()
        assert all(isinstance(attempt.outcome, int) for attempt in run.attempts)
        check(run.attempts, [event async for event in rival.read()])


async def test_when_no_answer_ever_comes_the_caller_gets_the_id_to_ask_about(tmp_path: Path) -> None:
    async with (
        KillableServer.start(tmp_path) as server,
        LossyWire.open(server.port) as wire,
        open_log(wire.access, attempt_seconds=0.1, settle_seconds=0.5) as (_, log),
        open_log(server.access) as (_, other),
    ):
        wire.deaf = True
        with pytest.raises(UnknownOutcome) as caught:
            await log.append(generated("a"), id="ask me")
        assert caught.value.details["event_id"] == "ask me"
        found = await other.last(SUBJECTS.aggregate("usage", "m"))
        assert found is not None
        assert await other.append(generated("a"), id="ask me") == found.seq


@pytest.mark.timeout(120)
async def test_a_server_that_is_killed_loses_no_acknowledged_event(tmp_path: Path) -> None:
    logging.getLogger("suite.bus").setLevel(logging.CRITICAL)
    attempts: list[Attempt] = []
    followed: list[Recorded] = []

    async def write(log: Log, number: int) -> None:
        for count in range(1_000_000):
            attempt = Attempt([f"{number}.{count}"])
            attempts.append(attempt)
            await attempt.run(log, _plain)

    async def decide(log: Log, number: int) -> None:
        for count in range(1_000_000):
            newest = await log.last(MODEL)
            attempt = Attempt(
                [f"d{number}.{count}.{part}" for part in range(1 + count % 2)],
                Expectation(subject=MODEL, last_seq=newest.seq if newest else 0),
            )
            attempts.append(attempt)
            await attempt.run(log, _decision)

    async def follow(log: Log) -> None:
        async with aclosing(log.read(follow=True)) as events:
            async for event in events:
                followed.append(event)  # noqa: PERF401 - it never ends, and others look at it meanwhile

    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (connection, log):
        async with anyio.create_task_group() as reading:
            reading.start_soon(follow, log)
            async with anyio.create_task_group() as writing:
                for number in range(40):
                    writing.start_soon(write, log, number)
                for number in range(2):
                    writing.start_soon(decide, log, number)
                for round_number in range(3):
                    await anyio.sleep(0.25 + 0.05 * round_number)
                    await server.kill()
                    await anyio.sleep(0.05)
                    await server.up()
                    await connection.wait_connected(10)
                await anyio.sleep(0.2)
                writing.cancel_scope.cancel()
            seq = await log.append(generated("the last"))
            with anyio.fail_after(20):
                while not followed or followed[-1].seq < seq:
                    await anyio.sleep(0.02)
            reading.cancel_scope.cancel()
        stored = [event async for event in log.read()]
    assert len([attempt for attempt in attempts if isinstance(attempt.outcome, int)]) > 100
    check([attempt for attempt in attempts if attempt.outcome is not None], stored)
    assert followed == stored
