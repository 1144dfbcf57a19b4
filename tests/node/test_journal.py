"""What a node decides and what happens to it while the log takes no events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path

import anyio
import msgspec
import pytest

from suite.bus.embedded import EmbeddedServer
from suite.errors import LogNotWritable, SuiteError, UnknownOutcome
from suite.log import Log
from suite.messages.decisions import Decision
from suite.messages.events import (
    Event,
    InstanceGrew,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
    ModelQuarantined,
    ModelReleased,
)
from suite.node import journal as journals
from suite.node.journal import Journal
from suite.tasks import background
from support.disks import small_disk
from support.journal import SUBJECTS, generated, loaded, open_log, started
from support.service import facts

PROMPT_SECONDS = 5.0


@asynccontextmanager
async def journal_on(directory: Path) -> AsyncIterator[tuple[EmbeddedServer, Log, Journal]]:
    async with (
        EmbeddedServer.start(directory / "nats") as server,
        open_log(server.access, attempt_seconds=0.2) as (_, log),
    ):
        epoch = await log.append(started(1))
        ids = count()
        yield server, log, Journal(log, SUBJECTS, "box1", epoch, lambda: f"id {next(ids)}")


def load(instance_id: str) -> InstanceLoadStarted:
    return InstanceLoadStarted(
        node="box1",
        model_id="m",
        instance_id=instance_id,
        reserved_bytes=1,
        context_tokens=1,
        evicting=(),
    )


def given_up(instance_id: str) -> InstanceLoadFailed:
    return InstanceLoadFailed(
        node="box1", model_id="m", instance_id=instance_id, code="unknown_outcome", message="given up"
    )


def unloaded() -> InstanceUnloaded:
    return InstanceUnloaded(node="box1", model_id="m", instance_id="i", reason="requested", freed_bytes=0)


async def test_decisions_are_refused_and_facts_wait_while_the_log_takes_none(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", megabytes=16) as disk:
        async with journal_on(disk.path) as (server, log, journal), background() as tasks:
            tasks.start_soon(journal.run)
            await journal.decide(load("i"), undone=given_up("i"))
            disk.fill()
            written: list[int] = []
            with anyio.fail_after(PROMPT_SECONDS):
                with suppress(UnknownOutcome, LogNotWritable):
                    while True:  # until a write has failed
                        await log.append(generated("x" * 3000))
                for fact in (loaded(1), unloaded()):
                    with pytest.raises(LogNotWritable):
                        await journal.record(fact, written=written.append)
                with pytest.raises(LogNotWritable, match="still wait"):
                    await journal.decide(load("j"), undone=given_up("j"))
            assert not written
            disk.clear()
            await server.restart()
            with anyio.fail_after(20):
                while len(written) < 2:
                    await anyio.sleep(0.05)
                seq = await journal.decide(load("k"), undone=given_up("k"))
            events = [event async for event in log.read("suite.event.instance.>")]
            assert facts(events) == [
                "instance.load_started",
                "instance.loaded",
                "instance.unloaded",
                "instance.load_started",
            ]
            assert [event.seq for event in events[1:]] == [*written, seq]


class Failing:
    """Has the next appends of a journal about the model m fail, each with the next of these errors."""

    def __init__(self, journal: Journal, *errors: SuiteError, patch: pytest.MonkeyPatch) -> None:
        self.began = anyio.Event()
        """Set when the first of them has failed."""
        self._errors = list(errors)
        self._append = journal._append
        patch.setattr(journal, "_append", self)

    async def __call__(
        self, event: Event, event_id: str, correlation_id: str | None, *, essential: bool = False
    ) -> int:
        if self._errors and "m" in event.ids:
            self.began.set()
            raise self._errors.pop(0)
        return await self._append(event, event_id, correlation_id, essential=essential)


@pytest.mark.parametrize(
    "errors",
    [(UnknownOutcome(),), (UnknownOutcome(), LogNotWritable(), LogNotWritable())],
    ids=["an answer is lost", "the log takes nothing for a while"],
)
async def test_what_happens_to_an_instance_is_stored_in_that_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: tuple[SuiteError, ...]
) -> None:
    """The append of its growth is repeated until its outcome is known. Meanwhile the instance ends."""
    grew = InstanceGrew(node="box1", model_id="m", instance_id="i", reserved_bytes=2)

    async def record(event: Event) -> None:
        with suppress(LogNotWritable):
            await journal.record(event, written=written.append)

    async with journal_on(tmp_path) as (_, log, journal), background() as tasks:
        written: list[int] = []
        failing = Failing(journal, *errors, patch=monkeypatch)
        async with anyio.create_task_group() as recording:
            recording.start_soon(record, grew)
            await failing.began.wait()
            await record(unloaded())
        tasks.start_soon(journal.run)
        with anyio.fail_after(20):
            while len(written) < 2:
                await anyio.sleep(0.02)
        assert [event.data async for event in log.read("suite.event.instance.>")] == [grew, unloaded()]
        assert not journal._turns, "nothing is kept of an aggregate to which nothing is appended"


async def test_a_decision_is_stored_after_the_fact_that_it_is_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody releases a model whose quarantine is still being appended."""
    until = datetime(2026, 1, 1, tzinfo=UTC)
    quarantined = ModelQuarantined(
        model_id="m",
        node="box1",
        content="",
        settings_key="",
        failures=2,
        until=until,
        instance_id="i",
        reason="failed",
    )
    released = ModelReleased(model_id="m", node="box1", reason="requested")
    async with journal_on(tmp_path) as (_, log, journal):
        failing = Failing(journal, UnknownOutcome(), patch=monkeypatch)
        async with anyio.create_task_group() as recording:
            recording.start_soon(journal.record, quarantined)
            await failing.began.wait()
            await journal.decide(released, undone=quarantined)
        assert [event.data async for event in log.read("suite.event.model.>")] == [quarantined, released]


async def test_what_is_appended_about_one_model_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a decision about that one not for ever."""
    monkeypatch.setattr(journals, "_TURN_SECONDS", 0.1)
    async with journal_on(tmp_path) as (_, log, journal):
        failing = Failing(journal, *[UnknownOutcome()] * 50, patch=monkeypatch)
        async with anyio.create_task_group() as recording:
            recording.start_soon(journal.record, unloaded())
            await failing.began.wait()
            with anyio.fail_after(PROMPT_SECONDS):
                await journal.record(loaded(1, model_id="n"))
                with pytest.raises(LogNotWritable, match="earlier events"):
                    await journal.decide(load("j"), undone=given_up("j"))
            recording.cancel_scope.cancel()
        assert not journal._turns
        events = [event.data async for event in log.read("suite.event.instance.>")]
    assert events == [loaded(1, model_id="n")]


async def test_who_waits_for_its_turn_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the cancellation comes out: the errors of a stop are told apart by their kind."""
    async with journal_on(tmp_path) as (_, _, journal):
        failing = Failing(journal, *[UnknownOutcome()] * 50, patch=monkeypatch)
        async with anyio.create_task_group() as recording:
            recording.start_soon(journal.record, unloaded())
            await failing.began.wait()
            for instance_id in ("j", "k"):
                recording.start_soon(partial(journal.decide, load(instance_id), undone=given_up(instance_id)))
            await anyio.wait_all_tasks_blocked()
            recording.cancel_scope.cancel()
        assert not journal._turns


async def test_what_was_weighed_is_left_out_of_the_log_if_it_is_too_large(tmp_path: Path) -> None:
    weighed = Decision(need_bytes=1, free_bytes=0, limit_bytes=1, policy="x" * 1_100_000)
    async with journal_on(tmp_path) as (_, log, journal):
        await journal.decide(msgspec.structs.replace(load("i"), decision=weighed), undone=given_up("i"))
        await journal.record(msgspec.structs.replace(unloaded(), decision=weighed))
        events = [event.data async for event in log.read("suite.event.instance.>")]
    assert events == [load("i"), unloaded()]


async def test_a_decision_that_turns_up_later_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with journal_on(tmp_path) as (_, log, journal), background() as tasks:
        errors = [UnknownOutcome(), LogNotWritable()]

        async def fail(*_: object, **__: object) -> int:
            raise errors.pop(0)

        with monkeypatch.context() as failing:
            failing.setattr(journal, "_append", fail)
            with pytest.raises(UnknownOutcome):
                await journal.decide(load("i"), undone=given_up("i"))
        log.writability.note_write_failure()
        tasks.start_soon(journal.run)
        await anyio.sleep(0.3)  # it looks for the decision, and must not take it that there is none
        log.writability.note_stored()
        await log.append(load("i"), id="id 0")  # a restarted server has found it in its file
        with anyio.fail_after(20):
            await journal.decide(load("j"), undone=given_up("j"))
        events = [event async for event in log.read("suite.event.instance.>")]
        assert facts(events) == [
            "instance.load_started",
            "instance.load_failed",
            "instance.load_started",
        ]
