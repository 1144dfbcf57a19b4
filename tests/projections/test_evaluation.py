"""Samples and evaluations as SQL readers and pages have them, and how models stand beside each other."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import aiosqlite
import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.domain.promotion import Sample
from suite.domain.trust import Evaluated, Evidence, trust
from suite.errors import InvalidRequest
from suite.messages.actions.evaluation import (
    CompareModelsRequest,
    GetModelEvaluationScoresRequest,
    GetPerformanceMetricsRequest,
    ModelComparison,
)
from suite.messages.envelope import Recorded
from suite.messages.events import (
    EvaluationLogged,
    EvaluationRetracted,
    Event,
    InstanceCrashed,
    InstanceLoaded,
    MetricLogged,
    ModelRegistered,
    ModelRemoved,
    UnknownEvent,
    UsageRecorded,
)
from suite.projections.comparison import compare_models
from suite.projections.evaluation import EvaluationProjection
from suite.projections.samples import find_metric, performance_metrics
from suite.projections.scores import evaluation_scores, find_evaluation, samples_of
from suite.projections.trust import trusts
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

PROJECTION = EvaluationProjection()
SQL = "'; DROP TABLE performance_metrics; --\" % _"


def metric(
    id: str, value: float = 1.0, *, agent: str = "a", name: str = "m", at: datetime = T0
) -> MetricLogged:
    return MetricLogged(
        metric_id=id, agent_name=agent, metric_name=name, value=value, timestamp=at, context='{"n":1}'
    )


def evaluation(
    id: str,
    trust_score: float = 0.8,
    *,
    model: str = "phi",
    cycle: str = "c1",
    at: datetime = T0,
    accuracy: float | None = None,
    latency: float = 0.0,
) -> EvaluationLogged:
    return EvaluationLogged(
        evaluation_id=id,
        model_name=model,
        cycle_id=cycle,
        trust_score=trust_score,
        accuracy=accuracy,
        avg_latency_ms=latency,
        evaluation_timestamp=at,
    )


def retracted(id: str, model: str = "phi") -> EvaluationRetracted:
    return EvaluationRetracted(evaluation_id=id, model_name=model, reason="wrong data")


def loaded(model: str = "phi") -> InstanceLoaded:
    return InstanceLoaded(node="box1", model_id=model, instance_id="i", pid=1, resident_bytes=1, load_ms=1.0)


def crashed(model: str = "phi") -> InstanceCrashed:
    return InstanceCrashed(node="box1", model_id=model, instance_id="i", exit_code=-6, generations=1)


def registered(sha256: str, model: str = "phi", node: str = "box1") -> ModelRegistered:
    return ModelRegistered(
        model_id=model,
        node=node,
        file_name=f"{model}.gguf",
        file_bytes=1,
        sha256=sha256,
        architecture="llama",
        parameters=1,
        quantization="F16",
        trained_context_tokens=1,
    )


ids = st.sampled_from(["1", "2", "3", "4", "x\0y", SQL])
names = st.sampled_from(["a", "b"])
times = st.integers(-200_000, 200_000).map(lambda tenths: T0 + timedelta(seconds=tenths / 10))
metrics = st.builds(
    metric, ids, st.floats(allow_nan=False, allow_infinity=False), agent=names, name=names, at=times
)
evaluations = st.one_of(
    st.builds(evaluation, ids, st.floats(0, 1), model=names, cycle=names, at=times),
    st.builds(retracted, ids, names),
)
facts: st.SearchStrategy[Event] = st.one_of(
    metrics,
    evaluations,
    st.builds(loaded, names),
    st.builds(crashed, names),
    st.builds(registered, st.sampled_from(["one", "two"]), names, names),
)


def only_samples_expire(log: list[Recorded]) -> list[Recorded]:
    return [
        event if isinstance(event.data, MetricLogged) else msgspec.structs.replace(event, expires=None)
        for event in log
    ]


@pytest.fixture
async def db() -> AsyncIterator[aiosqlite.Connection]:
    async with read_model(PROJECTION) as db:
        yield db


async def rows(db: aiosqlite.Connection, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await db.execute_fetchall(sql)]


# --- the fold ---------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(logs(facts), st.lists(st.integers(1, 30), max_size=4))
def test_any_batching_gives_the_same_tables(log: list[Recorded], cuts: list[int]) -> None:
    anyio.run(batching_changes_nothing, PROJECTION, log, cuts)


@settings(max_examples=30, deadline=None)
@given(logs(facts))
def test_an_event_that_is_stored_again_counts_once(log: list[Recorded]) -> None:
    anyio.run(repetition_changes_nothing, PROJECTION, log)


@settings(max_examples=30, deadline=None)
@given(logs(facts, expiring=True).map(only_samples_expire), st.integers(0, 30), st.integers(0, 130))
def test_what_expired_leaves_no_trace(log: list[Recorded], cut: int, minutes: int) -> None:
    anyio.run(expired_as_if_never_there, PROJECTION, log, cut, T0 + timedelta(minutes=minutes))


@settings(max_examples=30, deadline=None)
@given(logs(evaluations), st.lists(st.integers(1, 30), max_size=3))
def test_the_first_of_an_id_counts_unless_it_is_retracted_at_any_time(
    log: list[Recorded], cuts: list[int]
) -> None:
    gone = {event.data.evaluation_id for event in log if isinstance(event.data, EvaluationRetracted)}
    kept: dict[str, tuple[EvaluationLogged, int]] = {}
    for event in log:
        if isinstance(event.data, EvaluationLogged) and event.data.evaluation_id not in gone:
            kept.setdefault(event.data.evaluation_id, (event.data, event.seq))

    async def check() -> None:
        async with read_model(PROJECTION) as db:
            await fold(db, PROJECTION, log, cuts=cuts)
            found = await rows(db, "SELECT evaluation_id FROM model_evaluation_scores")
            assert {id for (id,) in found} == set(kept)
            for id, stored in kept.items():
                assert await find_evaluation(db, id) == stored
            for id in gone:
                marker = await find_evaluation(db, id)
                assert marker is not None
                assert isinstance(marker[0], EvaluationRetracted)
            counts = await rows(db, "SELECT model_name, evaluations FROM model_facts WHERE evaluations <> 0")
            assert dict(counts) == Counter(fact.model_name for fact, _ in kept.values())

    anyio.run(check)


async def test_the_first_sample_of_an_id_counts(db: aiosqlite.Connection) -> None:
    log = log_of([metric("1", 1.0), metric("1", 2.0), metric("2", 3.0), metric("1", 4.0)])
    await fold(db, PROJECTION, log, cuts=(1,))
    assert await find_metric(db, "1") == (metric("1", 1.0), 1)
    assert await find_metric(db, "2") == (metric("2", 3.0), 3)
    assert await find_metric(db, "3") is None


async def test_a_retraction_names_the_model_that_was_evaluated(db: aiosqlite.Connection) -> None:
    log = log_of([evaluation("1"), retracted("1", "other"), retracted("1"), evaluation("1", 0.1)])
    await fold(db, PROJECTION, log, cuts=(1, 2, 3))
    assert await find_evaluation(db, "1") == (retracted("1"), 2)
    assert (await evaluation_scores(db, GetModelEvaluationScoresRequest())).evaluations == ()


async def test_facts_of_others_change_nothing(db: aiosqlite.Connection) -> None:
    log = [recorded(UsageRecorded(model_id="phi", usage_type="t"), 1)]
    log.append(msgspec.structs.replace(log[0], seq=2, data=UnknownEvent(body=b"{}")))
    await fold(db, PROJECTION, log)
    assert await trusts(db) == {}


# --- SQL readers ------------------------------------------------------------------------------------------


async def test_sql_readers_find_the_columns_that_they_know(db: aiosqlite.Connection) -> None:
    await fold(
        db,
        PROJECTION,
        log_of([metric("1", 2.5), evaluation("1", accuracy=0.5), evaluation("2"), retracted("2")]),
    )
    (path,) = [row[2] for row in await rows(db, "PRAGMA database_list")]

    def read() -> tuple[list[Any], list[Any]]:
        uri = f"file:{path}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, detect_types=sqlite3.PARSE_DECLTYPES)) as reader:
            return (
                reader.execute(
                    "SELECT metric_id, agent_name, metric_name, value, timestamp, context "
                    "FROM performance_metrics"
                ).fetchall(),
                reader.execute(
                    "SELECT evaluation_id, model_name, cycle_id, trust_score, accuracy, f1_score, "
                    "avg_latency_ms, evaluation_timestamp, comparison_data FROM model_evaluation_scores"
                ).fetchall(),
            )

    at = T0.replace(tzinfo=None)
    samples, scores = await anyio.to_thread.run_sync(read)
    assert samples == [("1", "a", "m", 2.5, at, '{"n":1}')]
    assert scores == [("1", "phi", "c1", 0.8, 0.5, None, 0.0, at, None)]


# --- pages ------------------------------------------------------------------------------------------------


async def all_pages(
    ask: Callable[[str | None], Awaitable[tuple[Sequence[Any], str | None]]],
) -> list[Any]:
    found: list[Any] = []
    cursor: str | None = None
    while True:
        some, cursor = await ask(cursor)
        found += some
        if cursor is None:
            return found
        assert some


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(names, names, st.integers(0, 5)), max_size=25),
    st.none() | names,
    st.none() | names,
    st.none() | st.integers(0, 5),
    st.none() | st.integers(0, 5),
    st.integers(1, 7),
)
def test_all_pages_together_are_all_rows_newest_first(
    samples: list[tuple[str, str, int]],
    agent: str | None,
    name: str | None,
    since: int | None,
    until: int | None,
    limit: int,
) -> None:
    if since is not None and until is not None and until <= since:
        since, until = until, since + 1
    expected = [
        (minute, seq)
        for seq, (by, of, minute) in enumerate(samples, start=1)
        if agent in (None, by)
        and name in (None, of)
        and (since is None or minute >= since)
        and (until is None or minute < until)
    ]

    def moment(minute: int | None) -> str | None:
        return None if minute is None else (T0 + timedelta(minutes=minute)).isoformat()

    async def check() -> None:
        async with read_model(PROJECTION) as db:
            log: list[Event] = [
                metric(str(seq), agent=by, name=of, at=T0 + timedelta(minutes=minute))
                for seq, (by, of, minute) in enumerate(samples, start=1)
            ]
            log += [
                evaluation(str(seq), model=by, cycle=of, at=T0 + timedelta(minutes=minute))
                for seq, (by, of, minute) in enumerate(samples, start=1)
            ]
            await fold(db, PROJECTION, log_of(log))

            async def of_metrics(cursor: str | None) -> tuple[Sequence[Any], str | None]:
                page = await performance_metrics(
                    db,
                    GetPerformanceMetricsRequest(
                        agent_name=agent,
                        metric_name=name,
                        since=moment(since),
                        until=moment(until),
                        limit=limit,
                        cursor=cursor,
                    ),
                )
                return [one.metric_id for one in page.metrics], page.next_cursor

            async def of_scores(cursor: str | None) -> tuple[Sequence[Any], str | None]:
                page = await evaluation_scores(
                    db,
                    GetModelEvaluationScoresRequest(
                        model_name=agent,
                        cycle_id=name,
                        since=moment(since),
                        until=moment(until),
                        limit=limit,
                        cursor=cursor,
                    ),
                )
                return [one.evaluation_id for one in page.evaluations], page.next_cursor

            newest_first = [str(seq) for _, seq in sorted(expected, reverse=True)]
            assert await all_pages(of_metrics) == newest_first
            assert await all_pages(of_scores) == newest_first

    anyio.run(check)


async def test_a_page_tells_all_of_a_sample_and_its_time_in_utc(db: aiosqlite.Connection) -> None:
    await fold(db, PROJECTION, log_of([metric("1", 2.5, agent=SQL, name=SQL)]))
    reply = await performance_metrics(db, GetPerformanceMetricsRequest(agent_name=SQL, metric_name=SQL))
    (found,) = reply.metrics
    assert msgspec.structs.astuple(found) == (
        "1", SQL, SQL, 2.5, "2026-03-01T12:00:00.000000+00:00", '{"n":1}',
    )  # fmt: skip
    assert reply.next_cursor is None


@pytest.mark.parametrize(
    "request_",
    [
        {"cursor": "x"},
        {"cursor": "WyJhIiwxXQ"},
        {"cursor": "WyIyMDI2LTAxLTAxIiwtMV0"},
        {"cursor": "WyIyMDI2LTAxLTAxIiw5OTk5OTk5OTk5OTk5OTk5OTk5XQ"},
        {"cursor": "é" * 10},
        {"since": "never"},
        {"since": "2026-02-01", "until": "2026-01-01"},
    ],
)
async def test_cursors_and_times_that_are_none_are_refused(
    db: aiosqlite.Connection, request_: dict[str, str]
) -> None:
    with pytest.raises(InvalidRequest, match=r"cursor|since|until"):
        await performance_metrics(db, GetPerformanceMetricsRequest(**request_))  # type: ignore[arg-type]


@pytest.mark.parametrize("with_time", [False, True])
@pytest.mark.parametrize("agent", [None, "a"])
@pytest.mark.parametrize("name", [None, "m"])
async def test_a_page_is_read_off_an_index_in_order(
    db: aiosqlite.Connection, agent: str | None, name: str | None, with_time: bool
) -> None:
    asked: list[str] = []
    await fold(db, PROJECTION, log_of([metric("1"), metric("2"), evaluation("1"), evaluation("2")]))
    first = await performance_metrics(db, GetPerformanceMetricsRequest(limit=1))
    await db.set_trace_callback(asked.append)
    paged = {"since": "2020-01-01", "until": "2030-01-01", "cursor": first.next_cursor} if with_time else {}
    await performance_metrics(
        db,
        GetPerformanceMetricsRequest(agent_name=agent, metric_name=name, **paged),  # type: ignore[arg-type]
    )
    await evaluation_scores(
        db,
        GetModelEvaluationScoresRequest(model_name=agent, cycle_id=name, **paged),  # type: ignore[arg-type]
    )
    await db.set_trace_callback(None)  # type: ignore[arg-type]
    assert len(asked) == 2
    bounds = 1 + with_time
    for statement in asked:
        (plan,) = [row[3] for row in await rows(db, f"EXPLAIN QUERY PLAN {statement}")]
        assert "USING INDEX" in plan
        if with_time or agent or name:
            wanted = (agent is not None) + (name is not None)
            assert plan.count("=?") == wanted
            assert plan.count(">") + plan.count("<") == (bounds if with_time else 0)


# --- models side by side ----------------------------------------------------------------------------------


async def compared(db: aiosqlite.Connection, *names: str) -> list[ModelComparison]:
    return list((await compare_models(db, CompareModelsRequest(model_names=names))).models)


async def test_models_are_compared_in_their_latest_cycle(db: aiosqlite.Connection) -> None:
    await fold(
        db,
        PROJECTION,
        log_of(
            [
                loaded(),
                evaluation("1", 0.4, cycle="c1", accuracy=0.5, latency=100),
                evaluation("2", 0.6, cycle="c1", latency=300),
                evaluation("3", 0.9, cycle="c2", accuracy=0.75),
                evaluation("4", 0.5, model="other"),
                crashed(),
            ]
        ),
    )
    phi, other = await compared(db, "phi", "other")
    if phi.model_name == "other":
        phi, other = other, phi
    assert (phi.cycle_id, phi.previous_cycle_id, phi.evaluations, phi.crashes) == ("c2", "c1", 3, 1)
    assert (phi.scores.trust_score, phi.scores.accuracy) == (0.9, 0.75)
    assert (phi.scores.f1_score, phi.scores.avg_latency_ms) == (None, None)
    assert phi.change.trust_score == pytest.approx(0.4)
    assert phi.change.accuracy == pytest.approx(0.25)
    assert phi.change.avg_latency_ms is None
    then = (Evaluated(trust_score=0.6, avg_latency_ms=300), Evaluated(trust_score=0.4, avg_latency_ms=100))
    now = (Evaluated(trust_score=0.9), *then)
    before = trust(Evidence(evaluations=then, loads=1, crashes=1))
    assert phi.scores.trust == trust(Evidence(evaluations=now, loads=1, crashes=1))
    assert phi.scores.trust is not None
    assert before is not None
    assert phi.change.trust == phi.scores.trust - before
    assert (other.cycle_id, other.previous_cycle_id) == ("c1", None)
    assert set(msgspec.structs.astuple(other.change)) == {None}


async def test_trust_starts_anew_with_new_content(db: aiosqlite.Connection) -> None:
    removed = ModelRemoved(model_id="phi", node="box1")
    log = log_of(
        [
            *(evaluation("before it was known", 0.2), registered("one"), loaded(), crashed()),
            *(evaluation("old", 0.9), registered("one", node="box2"), removed, registered("one")),
            # From here on box1 has other content under this id, and box2 follows.
            *(registered("two"), loaded(), evaluation("new", 0.4, cycle="c2")),
            *(registered("two", node="box2"), evaluation("newer", 0.6, cycle="c2")),
        ]
    )
    await fold(db, PROJECTION, log[:8])
    old = (Evaluated(trust_score=0.9), Evaluated(trust_score=0.2))
    assert await trusts(db) == {"phi": trust(Evidence(evaluations=old, loads=1, crashes=1))}
    await fold(db, PROJECTION, log[8:9])
    assert await trusts(db) == {}
    (phi,) = await compared(db)
    assert (phi.evaluations, phi.crashes, phi.scores.trust) == (2, 0, None)
    await fold(db, PROJECTION, log[9:])
    new = (Evaluated(trust_score=0.6), Evaluated(trust_score=0.4))
    assert await trusts(db) == {"phi": trust(Evidence(evaluations=new, loads=1))}
    assert (await compared(db))[0].evaluations == 4


async def test_a_cycle_that_goes_on_is_the_latest_again(db: aiosqlite.Connection) -> None:
    cycles = ["c1", "c2", "c1"]
    await fold(db, PROJECTION, log_of([evaluation(str(n), cycle=cycle) for n, cycle in enumerate(cycles)]))
    (phi,) = await compared(db)
    assert (phi.cycle_id, phi.previous_cycle_id) == ("c1", "c2")


async def test_a_retraction_corrects_trust_cycles_and_change(db: aiosqlite.Connection) -> None:
    log = log_of([evaluation("1", 0.7), evaluation("2", 0.1, cycle="c2"), retracted("2")])
    await fold(db, PROJECTION, log[:1])
    expected, trusted = await compared(db), await trusts(db)
    await fold(db, PROJECTION, log[1:2])
    assert await compared(db) != expected
    await fold(db, PROJECTION, log[2:])
    assert await compared(db) == expected
    assert await trusts(db) == trusted
    await fold(db, PROJECTION, [recorded(retracted("1"), 4)])
    assert await compared(db) == []


async def test_models_without_an_evaluation_and_unknown_ones_appear(db: aiosqlite.Connection) -> None:
    await fold(db, PROJECTION, log_of([crashed("weak"), loaded("calm"), evaluation("1", 1.0, model=SQL)]))
    found = await compared(db)
    assert [(one.model_name, one.evaluations, one.crashes) for one in found] == [
        (SQL, 1, 0),
        ("calm", 0, 0),
        ("weak", 0, 1),
    ]
    unknown, calm = reversed(await compared(db, "unknown", "calm", "unknown"))
    assert (calm.model_name, calm.scores.trust) == ("calm", 0.5)
    assert (unknown.model_name, unknown.evaluations, unknown.scores.trust) == ("unknown", 0, None)


async def test_trust_is_of_the_latest_fifty_of_each_model(db: aiosqlite.Connection) -> None:
    log: list[Event] = [
        evaluation(f"{model}{n}", 1.0 if n >= 10 else 0.0, model=model, cycle=str(n // 7))
        for n in range(60)
        for model in "ab"
    ]
    await fold(db, PROJECTION, log_of(log))
    best = trust(Evidence(evaluations=(Evaluated(trust_score=1.0),) * 50))
    assert await trusts(db) == {"a": best, "b": best}
    assert await trusts(db, ["b", "unknown"]) == {"b": best}
    assert await trusts(db, []) == {}
    (a,) = await compared(db, "a")
    without = (Evaluated(trust_score=1.0),) * 46 + (Evaluated(trust_score=0.0),) * 4
    before = trust(Evidence(evaluations=without))
    assert best is not None
    assert before is not None
    assert a.change.trust == best - before


async def test_trust_does_not_change_when_samples_go(db: aiosqlite.Connection) -> None:
    end = T0 + timedelta(hours=1)
    await fold(
        db,
        PROJECTION,
        [recorded(metric("1"), 1, expires=end), recorded(evaluation("1"), 2), recorded(crashed(), 3)],
    )
    before, compared_before = await trusts(db), await compared(db)
    await expire(db, PROJECTION, end)
    assert await find_metric(db, "1") is None
    assert (await trusts(db), await compared(db)) == (before, compared_before)


async def test_gates_count_a_set_once_and_take_no_trust_from_speed(db: aiosqlite.Connection) -> None:
    def measured(id: str, accuracy: float | None, set_sha256: str | None) -> EvaluationLogged:
        quality = None if set_sha256 is None else {"set_sha256": set_sha256}
        told = msgspec.json.encode({"benchmark_id": id, "result": {"quality": quality}}).decode()
        return msgspec.structs.replace(
            evaluation(id, 0.5 if accuracy is None else accuracy),
            accuracy=accuracy,
            avg_latency_ms=0.0,
            comparison_data=told,
            version=1,
        )

    by_hand = msgspec.structs.replace(
        evaluation("hand", 0.7), accuracy=None, avg_latency_ms=9.0, comparison_data="no JSON", version=1
    )
    facts: list[Event] = [
        by_hand,
        measured("first", 0.1, "a"),
        measured("speed", None, None),
        measured("again", 0.9, "a"),
        measured("other", 0.8, "b"),
    ]
    await fold(db, PROJECTION, [recorded(fact, seq) for seq, fact in enumerate(facts, start=1)])
    assert await samples_of(db, "phi", 1) == (
        Sample(trust=0.8, accuracy=0.8),
        Sample(trust=0.9, accuracy=0.9),
        Sample(),
        Sample(trust=0.7, latency_ms=9.0),
    )
