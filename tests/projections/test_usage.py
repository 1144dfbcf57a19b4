"""What was used, when, by whom: counted from rows that have no text of any prompt or answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aiosqlite
import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.errors import InvalidRequest
from suite.messages.actions.usage import UsageRequest
from suite.messages.envelope import Recorded
from suite.messages.events import Event, Generated, ModelRemoved, UnknownEvent, UsageRecorded
from suite.projections.usage import (
    UsageHistory,
    UsageProjection,
    VersionUse,
    last_used,
    usage,
    uses_by_version,
)
from support.folding import (
    T0,
    batching_changes_nothing,
    expire,
    expired_as_if_never_there,
    fold,
    logs,
    read_model,
    recorded,
    repetition_changes_nothing,
    tables,
)

PROJECTION = UsageProjection()
SQL = "'; DROP TABLE usage; --\" % _"


def generated(model_id: str, *, conversation_id: str | None = None, tokens: int = 10) -> Generated:
    return Generated(
        model_id=model_id,
        node="box1",
        instance_id="i",
        generation_id="g",
        conversation_id=conversation_id,
        prompt_tokens=tokens,
        reused_tokens=2,
        completion_tokens=5,
        queue_ms=0.5,
        time_to_first_token_ms=None,
        generation_ms=100.25,
        outcome="stop",
    )


def used(
    model_id: str, *, usage_type: str = "inference", conversation_id: str | None = None
) -> UsageRecorded:
    return UsageRecorded(model_id=model_id, usage_type=usage_type, conversation_id=conversation_id)


def at(hour: int, minute: int = 0, second: float = 0.0, *, day: int = 1) -> datetime:
    return datetime(2026, 3, day, hour, minute, tzinfo=UTC) + timedelta(seconds=second)


USES: list[tuple[datetime, Event]] = [
    (at(10, 59, 59.999999), generated("a", conversation_id="talk")),
    (at(11), generated("a", conversation_id="talk", tokens=30)),
    (at(11, 30), used("b", conversation_id="talk")),
    (at(11, 59, 59.999999), used("b", usage_type="training")),
    (at(12), generated("a")),
    (at(0, day=2), used(SQL)),
]
LOG = [recorded(event, seq, at=time) for seq, (time, event) in enumerate(USES, start=1)]


@pytest.fixture
async def db() -> AsyncIterator[aiosqlite.Connection]:
    async with read_model(PROJECTION) as db:
        await fold(db, PROJECTION, LOG)
        yield db


async def counted(db: aiosqlite.Connection, *fields: str, **request: object) -> list[tuple[object, ...]]:
    reply = await usage(db, msgspec.convert(request, UsageRequest))
    return [tuple(getattr(count, field) for field in fields) for count in reply.usage]


async def test_a_model_has_the_sums_of_all_its_uses(db: aiosqlite.Connection) -> None:
    reply = await usage(db, UsageRequest(model_id="a"))
    assert msgspec.to_builtins(reply.usage) == (
        {
            "model_id": "a",
            "uses": 3,
            "prompt_tokens": 50,
            "reused_tokens": 6,
            "completion_tokens": 15,
            "generation_ms": 300.75,
            "last_used_at": "2026-03-01T12:00:00.000000+00:00",
        },
    )


async def test_the_most_used_come_first_and_of_as_many_uses_the_first_by_name(
    db: aiosqlite.Connection,
) -> None:
    assert await counted(db, "model_id", "uses") == [("a", 3), ("b", 2), (SQL, 1)]
    assert await counted(db, "model_id", "uses", until="2026-03-01 11:30:00") == [("a", 2)]
    assert await counted(
        db, "model_id", "uses", since="2026-03-01 11:30:00", until="2026-03-01 12:00:01"
    ) == [
        ("b", 2),
        ("a", 1),
    ]
    assert await counted(db, "model_id", limit=1) == [("a",)]


async def test_an_hour_begins_on_the_hour_in_utc_and_the_latest_comes_first(db: aiosqlite.Connection) -> None:
    assert await counted(db, "start", "uses", group_by=("hour",)) == [
        ("2026-03-02T00:00:00.000000+00:00", 1),
        ("2026-03-01T12:00:00.000000+00:00", 1),
        ("2026-03-01T11:00:00.000000+00:00", 3),
        ("2026-03-01T10:00:00.000000+00:00", 1),
    ]


async def test_several_keys_are_counted_together(db: aiosqlite.Connection) -> None:
    fields = ("start", "model_id", "usage_type", "uses")
    day1, day2 = "2026-03-01T00:00:00.000000+00:00", "2026-03-02T00:00:00.000000+00:00"
    assert await counted(db, *fields, group_by=("usage_type", "model", "day")) == [
        (day2, SQL, "inference", 1),
        (day1, "a", "generation", 3),
        (day1, "b", "inference", 1),
        (day1, "b", "training", 1),
    ]


async def test_by_hour_and_day_is_by_hour_and_a_key_twice_is_once(db: aiosqlite.Connection) -> None:
    by_hour = await counted(db, "start", "uses", group_by=("hour",))
    assert await counted(db, "start", "uses", group_by=("day", "hour", "hour")) == by_hour


async def test_no_key_gives_one_row_for_all_and_none_for_nothing(db: aiosqlite.Connection) -> None:
    assert await counted(db, "uses", "model_id", group_by=()) == [(6, None)]
    assert await counted(db, "uses", group_by=(), model_id="nobody's") == []


async def test_uses_outside_of_a_conversation_are_a_group_of_their_own(db: aiosqlite.Connection) -> None:
    fields = ("conversation_id", "uses")
    assert await counted(db, *fields, group_by=("conversation",)) == [(None, 3), ("talk", 3)]
    assert await counted(db, "model_id", "uses", conversation_id="talk") == [("a", 2), ("b", 1)]


@pytest.mark.parametrize(
    "since",
    ["2026-03-01T13:00:00+01:00", "2026-03-01T07:00:00-05:00", "2026-03-01 12:00:00", at(12).timestamp()],
)
async def test_a_time_means_the_same_in_every_zone(db: aiosqlite.Connection, since: str | float) -> None:
    assert await counted(db, "model_id", since=since) == [(SQL,), ("a",)]
    assert await counted(db, "model_id", "uses", until=since) == [("a", 2), ("b", 2)]


@pytest.mark.parametrize("field", ["since", "until"])
@pytest.mark.parametrize("value", ["yesterday", "2026-02-30", 1e300, SQL])
async def test_a_time_that_is_none_is_refused_by_name(
    db: aiosqlite.Connection, field: str, value: str | float
) -> None:
    with pytest.raises(InvalidRequest, match=f"'{field}'"):
        await counted(db, "uses", **{field: value})


async def test_sql_in_a_name_is_just_text(db: aiosqlite.Connection) -> None:
    assert await counted(db, "model_id", "uses", model_id=SQL) == [(SQL, 1)]
    assert await counted(db, "uses", conversation_id=SQL) == []
    assert await last_used(db, [SQL]) == {SQL: at(0, day=2)}


async def test_when_each_model_was_last_used(db: aiosqlite.Connection) -> None:
    assert await last_used(db) == {"a": at(12), "b": at(11, 59, 59.999999), SQL: at(0, day=2)}
    assert await last_used(db, ["b", "never used"]) == {"b": at(11, 59, 59.999999)}
    assert await last_used(db, []) == {}


async def test_a_use_by_a_name_with_adapters_is_one_of_the_name_and_of_the_model() -> None:
    plain = msgspec.structs.replace(generated("a"), version=1)
    first, second = (msgspec.structs.replace(plain, variant="pirate", variant_version=n) for n in (1, 2))
    unknown = msgspec.structs.replace(plain, variant="poet")
    log = [recorded(each, n, at=at(n)) for n, each in enumerate([plain, first, second, second, unknown], 1)]
    async with read_model(PROJECTION) as db:
        await fold(db, PROJECTION, log)
        pirates = {("pirate", 1): VersionUse(1, at(2)), ("pirate", 2): VersionUse(2, at(4))}
        assert await uses_by_version(db, "pirate") == pirates
        assert await uses_by_version(db, "a") == {("a", 1): VersionUse(5, at(5))}
        every = pirates | {("a", 1): VersionUse(5, at(5)), ("poet", None): VersionUse(1, at(5))}
        assert await uses_by_version(db, None) == every
        assert await last_used(db) == {"a": at(5), "pirate": at(4), "poet": at(5)}
        assert await last_used(db, ["pirate", "a"]) == {"a": at(5), "pirate": at(4)}
        told = recorded(UsageRecorded(model_id="a", usage_type="inference", variant="poet"), 6, at=at(6))
        await fold(db, PROJECTION, [told])
        of_name = ("name", "model_id", "uses", "prompt_tokens")
        assert await counted(db, *of_name, group_by=("name",)) == [
            ("pirate", "a", 3, 30),
            ("poet", "a", 2, 10),
            ("a", "a", 1, 10),
        ]
        assert await counted(db, *of_name, group_by=("model",)) == [(None, "a", 6, 50)]
        assert await counted(db, *of_name, model_id="pirate") == [(None, "a", 3, 30)]
        assert await counted(db, *of_name, model_id="a", group_by=()) == [(None, None, 6, 50)]


async def test_nothing_was_used_yet() -> None:
    async with read_model(PROJECTION) as db:
        assert await last_used(db) == {}
        assert await counted(db, "uses") == []
        assert await UsageHistory(db).counts(T0, 3) == []


async def test_the_counts_for_the_predictor_are_of_a_window(db: aiosqlite.Connection) -> None:
    history = UsageHistory(db)
    assert await history.counts(at(10), 10) == [("a", 3), ("b", 2), (SQL, 1)]
    assert await history.counts(at(11, 30), 2) == [("b", 2), (SQL, 1)]
    assert await history.counts(at(1, day=2), 10) == []


async def test_other_facts_and_those_of_a_later_version_are_passed_over() -> None:
    unknown = msgspec.structs.replace(LOG[0], data=UnknownEvent(body=b"{}"))
    other = recorded(ModelRemoved(model_id="a", node="box1"), 2)
    async with read_model(PROJECTION) as db:
        await fold(db, PROJECTION, [unknown, other])
        assert (await tables(db))["usage"] == []


names = st.sampled_from(["a", "b", "C", "ü", SQL, "nul\0", "🦙"])
conversations = st.none() | names
events: st.SearchStrategy[Event] = st.builds(
    generated, names, conversation_id=conversations, tokens=st.integers(0, 9)
) | st.builds(used, names, usage_type=names, conversation_id=conversations)


@settings(max_examples=40, deadline=None)
@given(logs(events, expiring=True), st.sets(st.integers(0, 30)))
def test_the_same_log_gives_the_same_rows_in_any_batches(log: list[Recorded], cuts: set[int]) -> None:
    anyio.run(batching_changes_nothing, PROJECTION, log, cuts)


@settings(max_examples=40, deadline=None)
@given(logs(events))
def test_an_event_that_is_stored_again_counts_once(log: list[Recorded]) -> None:
    anyio.run(repetition_changes_nothing, PROJECTION, log)


async def test_a_copy_that_lives_longer_is_known_and_not_counted() -> None:
    ends = [T0 + timedelta(hours=hour) for hour in (1, 2, 3)]
    first, copy, another = (recorded(used("m"), seq + 1, id="u", expires=end) for seq, end in enumerate(ends))
    async with read_model(PROJECTION) as db:
        await fold(db, PROJECTION, [first, copy])
        assert len((await tables(db))["usage"]) == 1
        await expire(db, PROJECTION, ends[0])
        await fold(db, PROJECTION, [another])
        assert not (await tables(db))["usage"]


@settings(max_examples=40, deadline=None)
@given(logs(events, expiring=True), st.integers(0, 30), st.integers(0, 7200))
def test_what_has_expired_leaves_no_trace(log: list[Recorded], cut: int, seconds: int) -> None:
    anyio.run(expired_as_if_never_there, PROJECTION, log, cut, T0 + timedelta(seconds=seconds))


@settings(max_examples=40, deadline=None)
@given(logs(events))
def test_the_last_use_is_the_newest_row_of_each_model(log: list[Recorded]) -> None:
    async def check() -> None:
        async with read_model(PROJECTION) as db:
            await fold(db, PROJECTION, log)
            expected = {event.data.ids[0]: event.time for event in sorted(log, key=lambda event: event.time)}
            assert await last_used(db) == expected
            assert await last_used(db, list(expected)) == expected

    anyio.run(check)
