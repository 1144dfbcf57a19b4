"""What went wrong is found again, page by page, whichever fact told of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import aiosqlite
import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.domain.incidents import incident
from suite.errors import InvalidRequest
from suite.messages.actions.projections import (
    GetErrorGroupsReply,
    GetErrorGroupsRequest,
    GetErrorsReply,
    GetErrorsRequest,
)
from suite.messages.envelope import Recorded
from suite.messages.events import (
    BreakerClosed,
    BreakerOpened,
    ErrorReported,
    Event,
    InstanceCrashed,
    InstanceLoadFailed,
    InstanceUnloaded,
    NodeLost,
    NodeStopped,
    Severity,
)
from suite.projections.errors import ErrorsProjection, error_groups, errors
from support.folding import (
    T0,
    batching_changes_nothing,
    expire,
    expired_as_if_never_there,
    fold,
    log_of,
    logs,
    read_model,
    recorded,
    repetition_changes_nothing,
)

PROJECTION = ErrorsProjection()
SQL = "'; DROP TABLE errors; --"


def reported(severity: Severity = "critical", message: str = "The disk is full.") -> ErrorReported:
    return ErrorReported(node="box1", error_type="data_dir_unusable", message=message, severity=severity)


def load_failed(model_id: str = "a", code: str = "load_failed") -> InstanceLoadFailed:
    return InstanceLoadFailed(
        node="box1", model_id=model_id, instance_id="i", code=code, message="It is no model."
    )


def crashed(model_id: str = "a") -> InstanceCrashed:
    return InstanceCrashed(node="box1", model_id=model_id, instance_id="i", exit_code=-9, generations=2)


UNLOADED = InstanceUnloaded(node="box1", model_id="a", instance_id="i", reason="idle", freed_bytes=1)
LOST = NodeLost(node="box1", epoch=1, observer="box2")
HARMLESS: list[Event] = [load_failed(code="load_cancelled"), UNLOADED, NodeStopped(node="box1", epoch=1)]
EVENTS: list[Event] = [reported(), *HARMLESS, load_failed(), crashed(), crashed(SQL), LOST]


@pytest.fixture
async def db() -> AsyncIterator[aiosqlite.Connection]:
    async with read_model(PROJECTION) as db:
        await fold(db, PROJECTION, log_of(EVENTS))
        yield db


async def found(db: aiosqlite.Connection, **request: object) -> GetErrorsReply:
    return await errors(db, msgspec.convert(request, GetErrorsRequest))


async def seqs(db: aiosqlite.Connection, **request: object) -> list[int]:
    return [entry.seq for entry in (await found(db, **request)).errors]


async def test_each_incident_is_an_entry_the_newest_first(db: aiosqlite.Connection) -> None:
    reply = await found(db)
    assert [(entry.seq, entry.error_type, entry.severity, entry.model_id) for entry in reply.errors] == [
        (8, "node_lost", "warning", None),
        (7, "actor_crashed", "error", SQL),
        (6, "actor_crashed", "error", "a"),
        (5, "load_failed", "error", "a"),
        (1, "data_dir_unusable", "critical", None),
    ]
    assert reply.next_cursor is None
    assert msgspec.to_builtins(reply.errors[-1]) == {
        "seq": 1,
        "error_type": "data_dir_unusable",
        "message": "The disk is full.",
        "severity": "critical",
        "node": "box1",
        "model_id": None,
        "timestamp": "2026-03-01T12:01:00.000000+00:00",
        "count": 1,
    }


@pytest.mark.parametrize("event", HARMLESS)
def test_what_somebody_asked_for_is_no_incident(event: Event) -> None:
    assert incident(event) is None


def test_a_crash_and_a_loss_say_what_happened_and_what_to_do() -> None:
    crash, loss = incident(crashed()), incident(LOST)
    assert crash is not None
    assert loss is not None
    assert "exit code -9 (SIGKILL)" in crash.message
    assert "2 generations" in crash.message
    assert "loads the model again" in crash.message
    assert "box1" in loss.message
    assert "box2" in loss.message
    assert "start it again" in loss.message


async def test_filters_are_taken_together(db: aiosqlite.Connection) -> None:
    assert await seqs(db, severity="error") == [7, 6, 5]
    assert await seqs(db, severity="info") == []
    assert await seqs(db, model_id="a", severity="error") == [6, 5]
    assert await seqs(db, model_id="nobody's") == []
    assert await seqs(db, model_id=SQL) == [7]
    assert await seqs(db, since="2026-03-01T13:06:00+01:00", until="2026-03-01 12:08:00") == [7, 6]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
async def test_pages_come_to_the_same_as_one(db: aiosqlite.Connection, limit: int) -> None:
    pages: list[list[int]] = []
    cursor = None
    while True:
        reply = await found(db, limit=limit, cursor=cursor)
        pages.append([entry.seq for entry in reply.errors])
        cursor = reply.next_cursor
        if cursor is None:
            break
    assert [seq for page in pages for seq in page] == [8, 7, 6, 5, 1]
    assert {len(page) for page in pages[:-1]} <= {limit}
    assert pages[-1]


async def groups(db: aiosqlite.Connection, **request: object) -> GetErrorGroupsReply:
    return await error_groups(db, msgspec.convert(request, GetErrorGroupsRequest))


async def test_errors_are_counted_by_type_model_and_node() -> None:
    storm = msgspec.structs.replace(reported(message="Again."), model_id="a", count=40, within_seconds=60.0)
    log = log_of(
        [reported(), load_failed("a"), load_failed("b"), load_failed("a"), storm, reported("info", "New.")]
    )
    async with read_model(PROJECTION) as db:
        await fold(db, PROJECTION, log)
        reply = await groups(db)
    found = [
        (each.error_type, each.model_id, each.count, each.last_seq, each.message) for each in reply.groups
    ]
    assert found == [
        ("data_dir_unusable", None, 2, 6, "New."),
        ("data_dir_unusable", "a", 40, 5, "Again."),
        ("load_failed", "a", 2, 4, "It is no model."),
        ("load_failed", "b", 1, 3, "It is no model."),
    ]
    first = reply.groups[0]
    assert (first.node, first.severity) == ("box1", "info")
    assert (first.first_seen, first.last_seen) == (
        "2026-03-01T12:01:00.000000+00:00",
        "2026-03-01T12:06:00.000000+00:00",
    )


async def test_groups_are_filtered_and_come_in_pages(db: aiosqlite.Connection) -> None:
    assert [each.error_type for each in (await groups(db, error_type="actor_crashed")).groups] == [
        "actor_crashed"
    ] * 2
    assert [each.model_id for each in (await groups(db, model_id="a")).groups] == ["a", "a"]
    assert [each.error_type for each in (await groups(db, severity="critical")).groups] == [
        "data_dir_unusable"
    ]
    pages, cursor = [], None
    while True:
        reply = await groups(db, limit=2, cursor=cursor)
        pages.append([each.last_seq for each in reply.groups])
        cursor = reply.next_cursor
        if cursor is None:
            break
    assert pages == [[8, 7], [6, 5], [1]]


async def test_a_breaker_that_opens_is_an_error_once() -> None:
    opened = BreakerOpened(
        node="box1", kind="otlp", name="traces", failures=1, pause_seconds=1.0, reason="it cannot be reached"
    )
    again = msgspec.structs.replace(opened, after_trial=True)
    log = log_of(
        [opened, again, BreakerClosed(node="box1", kind="otlp", name="traces", failures=2, open_seconds=9.0)]
    )
    async with read_model(PROJECTION) as db:
        await fold(db, PROJECTION, log)
        (entry,) = (await found(db)).errors
    assert (entry.seq, entry.error_type, entry.severity) == (1, "breaker_opened", "warning")
    assert "the export of traces over OTLP" in entry.message
    assert "it cannot be reached" in entry.message


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", " 7", "²", "9" * 19, "9" * 200, SQL])
async def test_a_cursor_that_is_none_is_refused(db: aiosqlite.Connection, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="'cursor'"):
        await found(db, cursor=cursor)


@pytest.mark.parametrize("field", ["since", "until"])
async def test_a_time_that_is_none_is_refused_by_name(db: aiosqlite.Connection, field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"'{field}'"):
        await found(db, **{field: SQL})


async def test_a_reported_error_goes_when_its_time_is_over_and_a_fact_stays() -> None:
    end = T0 + timedelta(hours=1)
    log = [recorded(reported(), 1, expires=end), recorded(crashed(), 2)]
    async with read_model(PROJECTION) as db:
        await fold(db, PROJECTION, log)
        await expire(db, PROJECTION, end - timedelta(seconds=1))
        assert await seqs(db) == [2, 1]
        await expire(db, PROJECTION, end)
        assert await seqs(db) == [2]


names = st.sampled_from(["a", "b", SQL, "ü"])
events: st.SearchStrategy[Event] = (
    st.builds(reported, st.sampled_from(["info", "warning", "error", "critical"]), names)
    | st.builds(load_failed, names, st.sampled_from(["load_failed", "load_cancelled"]))
    | st.builds(crashed, names)
    | st.sampled_from([LOST, *HARMLESS])
)


@settings(max_examples=40, deadline=None)
@given(logs(events, expiring=True), st.sets(st.integers(0, 30)))
def test_the_same_log_gives_the_same_rows_in_any_batches(log: list[Recorded], cuts: set[int]) -> None:
    anyio.run(batching_changes_nothing, PROJECTION, log, cuts)


@settings(max_examples=40, deadline=None)
@given(logs(events))
def test_an_event_that_is_stored_again_counts_once(log: list[Recorded]) -> None:
    anyio.run(repetition_changes_nothing, PROJECTION, log)


@settings(max_examples=40, deadline=None)
@given(logs(events, expiring=True), st.integers(0, 30), st.integers(0, 7200))
def test_what_has_expired_leaves_no_trace(log: list[Recorded], cut: int, seconds: int) -> None:
    anyio.run(expired_as_if_never_there, PROJECTION, log, cut, T0 + timedelta(seconds=seconds))
