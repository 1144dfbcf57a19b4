"""How the service did over time: the same however it is folded and read, and as it was."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.domain.trust import Evaluated, Evidence, trust
from suite.domain.trust_over_time import Change, trust_over_time
from suite.errors import InvalidRequest
from suite.messages.actions.statistics import (
    GetBetsRequest,
    GetBetStatisticsRequest,
    GetMetricSeriesRequest,
    GetRequestStatisticsRequest,
    GetResidencyTimelineReply,
    GetResidencyTimelineRequest,
    ListMetricsRequest,
    RequestFigures,
)
from suite.messages.decisions import Decision
from suite.messages.envelope import Recorded
from suite.messages.events import (
    Event,
    Generated,
    InstanceCrashed,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
    MetricLogged,
    NodeLost,
    NodeStopped,
    Outcome,
    PredictionMade,
    PredictionSettled,
    RequestsRefused,
    UsageRecorded,
)
from suite.projections import bets, metrics, requests, stays
from suite.projections.evaluation import EvaluationProjection
from suite.projections.history import HistoryProjection
from suite.projections.latencies import bin_of, latency, microseconds, middle_us
from suite.projections.usage import UsageProjection
from support.folding import (
    T0,
    batching_changes_nothing,
    expired_as_if_never_there,
    fold,
    log_of,
    logs,
    read_model,
    recorded,
    repetition_changes_nothing,
)

SECOND = timedelta(seconds=1)
ids = st.sampled_from(["1", "2"])
times_ms = st.floats(0, 1e5).map(lambda each: round(each, 3))
outcomes = st.sampled_from(["stop", "length", "failed", "cancelled"])


def generated(
    model_id: str = "a",
    *,
    first_ms: float | None = 100.0,
    rest_ms: float = 900.0,
    waited_ms: float = 0.0,
    outcome: Outcome = "stop",
) -> Generated:
    return Generated(
        model_id=model_id,
        node="box1",
        instance_id="i",
        generation_id="g",
        prompt_tokens=100,
        reused_tokens=40,
        completion_tokens=10,
        queue_ms=1.0,
        time_to_first_token_ms=first_ms,
        generation_ms=rest_ms,
        outcome=outcome,
        waited_ms=waited_ms,
    )


def started(model_id: str, instance_id: str, node: str = "box1", **more: object) -> InstanceLoadStarted:
    return InstanceLoadStarted(
        node=node,
        model_id=model_id,
        instance_id=instance_id,
        reserved_bytes=1000,
        context_tokens=1,
        **more,  # type: ignore[arg-type]
    )


def loaded(model_id: str, instance_id: str, node: str = "box1") -> InstanceLoaded:
    return InstanceLoaded(
        node=node, model_id=model_id, instance_id=instance_id, pid=1, resident_bytes=900, load_ms=5.0
    )


def unloaded(model_id: str, instance_id: str, **more: object) -> InstanceUnloaded:
    given: dict[str, object] = {"reason": "idle", "freed_bytes": 900, **more}
    return InstanceUnloaded(node="box1", model_id=model_id, instance_id=instance_id, **given)  # type: ignore[arg-type]


def made(prediction_id: str, model_id: str = "a", chance: float = 0.5) -> PredictionMade:
    return PredictionMade(
        model_id=model_id,
        node="box1",
        prediction_id=prediction_id,
        chance=chance,
        estimate=chance,
        horizon_seconds=1800.0,
        saves_seconds=4.0,
        costs_seconds=1.0,
        bytes=1000,
    )


def settled(prediction_id: str, model_id: str = "a", *, is_hit: bool = True) -> PredictionSettled:
    return PredictionSettled(
        model_id=model_id,
        node="box1",
        prediction_id=prediction_id,
        outcome="hit" if is_hit else "waste",
        reason="used" if is_hit else "not_used",
        chance=0.5,
        used=is_hit,
        saved_seconds=3.0 if is_hit else 0.0,
        byte_seconds=50.0,
    )


uses: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        generated, ids, first_ms=st.none() | times_ms, rest_ms=times_ms, waited_ms=times_ms, outcome=outcomes
    ),
    st.builds(UsageRecorded, model_id=ids, usage_type=ids, node=st.sampled_from(["", "box1"])),
    st.builds(RequestsRefused, node=ids, model_id=ids, code=ids, message=ids, requests=st.integers(1, 9)),
    st.builds(started, ids, ids),
)
lives: st.SearchStrategy[Event] = st.one_of(
    st.builds(started, ids, ids, ids),
    st.builds(loaded, ids, ids, ids),
    st.builds(unloaded, ids, ids),
    st.builds(
        InstanceCrashed,
        node=ids,
        model_id=ids,
        instance_id=ids,
        exit_code=st.just(-9),
        generations=st.just(0),
    ),
    st.builds(InstanceLoadFailed, node=ids, model_id=ids, instance_id=ids, code=ids, message=ids),
    st.builds(NodeLost, node=ids, epoch=st.just(1), observer=ids),
    st.builds(made, ids, ids),
    st.builds(settled, ids, ids, is_hit=st.booleans()),
)


# --- the folds --------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(log=logs(uses, expiring=True), cuts=st.lists(st.integers(0, 30)), minutes=st.integers(0, 130))
def test_requests_are_the_same_however_they_are_folded(
    log: list[Recorded], cuts: list[int], minutes: int
) -> None:
    anyio.run(batching_changes_nothing, UsageProjection(), log, cuts)
    anyio.run(repetition_changes_nothing, UsageProjection(), log)
    now = T0 + timedelta(minutes=minutes)
    anyio.run(expired_as_if_never_there, UsageProjection(), log, len(log) // 2, now)


@settings(max_examples=40, deadline=None)
@given(log=logs(lives), cuts=st.lists(st.integers(0, 30)))
def test_stays_and_bets_are_the_same_however_they_are_folded(log: list[Recorded], cuts: list[int]) -> None:
    anyio.run(batching_changes_nothing, HistoryProjection(), log, cuts)
    anyio.run(repetition_changes_nothing, HistoryProjection(), log)


# --- requests ---------------------------------------------------------------------------------------------


@given(st.integers(0, 2**60))
def test_the_middle_of_a_bin_is_within_two_percent_of_what_is_in_it(time_us: int) -> None:
    middle = middle_us(bin_of(time_us))
    assert abs(middle - time_us) <= 0.02 * time_us
    assert bin_of(time_us) <= bin_of(time_us + 1) <= bin_of(time_us) + 1


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=50))
def test_percentiles_are_by_nearest_rank_and_the_mean_is_exact(times_us: list[int]) -> None:
    bins = {each: sum(bin_of(one) == each for one in times_us) for each in map(bin_of, times_us)}
    told = latency(bins, sum(times_us))
    assert told is not None
    assert told.count == len(times_us)
    assert told.mean_ms == round(sum(times_us) / len(times_us) / 1000, 3)
    ordered = sorted(times_us)
    for percent, value in ((50, told.p50_ms), (95, told.p95_ms), (99, told.p99_ms)):
        exact = ordered[-(-percent * len(ordered) // 100) - 1] / 1000
        assert abs(value - exact) <= 0.02 * exact + 0.001


@pytest.mark.parametrize(("given", "expected"), [(float("nan"), 0), (-1.0, 0), (1.5, 1500), (1e300, 2**53)])
def test_any_number_is_a_time(given: float, expected: int) -> None:
    assert microseconds(given) == expected


async def figures_of(log: Sequence[Recorded], **asked: object) -> RequestFigures:
    async with read_model(UsageProjection()) as db:
        await fold(db, UsageProjection(), log)
        request = GetRequestStatisticsRequest(**asked)  # type: ignore[arg-type]
        return (await requests.request_statistics(db, request, T0 + timedelta(days=400))).total


async def test_a_long_window_has_what_its_short_ones_have_and_so_has_a_model() -> None:
    log = [
        recorded(generated(first_ms=float(hour)), hour, at=T0 + timedelta(hours=hour))
        for hour in range(1, 200)
    ]
    since, until = T0.timestamp(), (T0 + timedelta(days=10)).timestamp()
    by_hours = await figures_of(log, since=since, until=until)
    assert by_hours == await figures_of(log, since=since, until=until, model_id="a")
    days = [
        await figures_of(log, since=since + day * 86400, until=since + (day + 1) * 86400) for day in range(10)
    ]
    assert by_hours.requests == sum(each.requests for each in days) == 199
    assert by_hours.reused_tokens == sum(each.reused_tokens for each in days) == 199 * 40


async def test_what_expires_leaves_the_sums_of_the_hour_in_which_it_was() -> None:
    end = T0 + timedelta(hours=1)
    late = T0 + timedelta(seconds=3599, microseconds=999_999)
    log = [
        recorded(generated(), 1, at=late, expires=end),
        recorded(generated(), 2, at=T0, expires=end + SECOND),
    ]
    await expired_as_if_never_there(UsageProjection(), log, 2, end)
    assert (await figures_of(log, since=T0.timestamp(), until=end.timestamp())).requests == 2


async def test_figures_tell_what_became_of_requests_and_not_of_what_nodes_wanted_to_load() -> None:
    bet = Decision(purpose="preload", need_bytes=1, free_bytes=1, limit_bytes=1)
    promotion = Decision(purpose="promotion", need_bytes=1, free_bytes=1, limit_bytes=1)
    log = log_of(
        [
            generated(waited_ms=1000.0),
            generated(outcome="failed"),
            generated(outcome="client_gone"),
            UsageRecorded(model_id="a", usage_type="embedding", node="box1"),
            UsageRecorded(model_id="a", usage_type="inference"),
            RequestsRefused(node="box1", model_id="b", code="overloaded", message="m", requests=7),
            RequestsRefused(node="box1", model_id="a", code="load_failed", message="m"),
            RequestsRefused(node="box2", model_id="a", code="overloaded", message="m", requests=2),
            RequestsRefused(node="box1", model_id="a", code="overloaded", message="m", purpose="preload"),
            RequestsRefused(node="box1", model_id="a", code="overloaded", message="m", purpose="pin"),
            RequestsRefused(node="box1", model_id="a", code="overloaded", message="m", decision=bet),
            started("a", "1"),
            started("a", "2", decision=bet),
            started("a", "3", decision=promotion),
        ]
    )
    until = T0 + timedelta(hours=1)
    found = await figures_of(log, since=T0.timestamp(), until=until.timestamp())
    assert (found.requests, found.failed, found.cancelled, found.refused, found.cold_starts) == (
        4,
        1,
        1,
        10,
        1,
    )
    assert found.refusals == {"overloaded": 9, "load_failed": 1}
    assert found.first_token is not None
    assert found.total is not None
    assert (found.first_token.count, found.total.count) == (1, 1)
    assert found.first_token.mean_ms == 1100.0
    assert found.total.mean_ms == 2000.0


async def test_a_window_begins_no_earlier_than_what_there_is_and_must_end_after_it_begins() -> None:
    async with read_model(UsageProjection()) as db:
        now = T0 + timedelta(hours=3)
        empty = await requests.request_statistics(db, GetRequestStatisticsRequest(since=0), now)
        assert (empty.total.requests, empty.points, empty.models) == (0, (), ())
        await fold(db, UsageProjection(), log_of([generated("a"), generated("b"), generated("a")]))
        reply = await requests.request_statistics(db, GetRequestStatisticsRequest(since=0), now)
        assert reply.since.startswith("2026-03-01T12:00")
        assert [(each.model_id, each.figures.requests) for each in reply.models] == [("a", 2), ("b", 1)]
        refused = RequestsRefused(node="box1", model_id="c", code="overloaded", message="m", requests=5)
        await fold(db, UsageProjection(), [recorded(refused, 9, at=T0)])
        reply = await requests.request_statistics(db, GetRequestStatisticsRequest(since=0), now)
        assert [each.model_id for each in reply.models] == ["c", "a", "b"]
        assert reply.models[0].figures.refusals == {"overloaded": 5}
        with pytest.raises(InvalidRequest, match="until"):
            await requests.request_statistics(db, GetRequestStatisticsRequest(since=9, until=9), now)


async def test_a_window_of_which_nothing_is_known_is_a_year_at_most_and_metrics_begin_with_their_minute() -> (
    None
):
    now = T0 + timedelta(hours=3)
    year_ago = (now - timedelta(days=360)).strftime("%Y-%m-%d")
    async with read_model(HistoryProjection()) as db:
        told = await bets.bet_statistics(db, GetBetStatisticsRequest(since=0), now)
        assert "2025-02" < told.since < "2025-04", "widened to whole steps"
        lanes = await stays.timeline(db, GetResidencyTimelineRequest(since=0), now)
        assert lanes.since.startswith(year_ago)
        early = await stays.timeline(db, GetResidencyTimelineRequest(since=-6e10, until=-5.9e10), now)
        assert not early.lanes
    sample = MetricLogged(
        metric_id="1",
        agent_name="x",
        metric_name="seconds",
        value=1.0,
        timestamp=T0 + timedelta(minutes=50),
    )
    async with read_model(EvaluationProjection()) as db:
        await fold(db, EvaluationProjection(), [recorded(sample, 1)])
        told_of = GetMetricSeriesRequest(metric_name="seconds", since=0)
        series = await metrics.metric_series(db, told_of, T0 + timedelta(hours=1))
        assert series.since.startswith("2026-03-01T12:50")


# --- residency --------------------------------------------------------------------------------------------


async def timeline_of(
    events: Sequence[Event], *, every: timedelta = timedelta(minutes=1), **asked: object
) -> GetResidencyTimelineReply:
    log = [recorded(event, seq, at=T0 + seq * every) for seq, event in enumerate(events, 1)]
    fields = {"since": T0.timestamp(), "until": (T0 + timedelta(hours=1)).timestamp(), **asked}
    async with read_model(HistoryProjection()) as db:
        await fold(db, HistoryProjection(), log)
        request = GetResidencyTimelineRequest(**fields)  # type: ignore[arg-type]
        return await stays.timeline(db, request, T0 + timedelta(hours=1))


async def test_a_stay_says_by_whom_and_why_it_ended() -> None:
    reply = await timeline_of(
        [
            started("a", "1", version=3),
            loaded("a", "1"),
            started("b", "2", evicting=("a",)),
            unloaded("a", "1", reason="evicted", evicted_for="b", decision_seq=3),
            loaded("b", "2"),
            InstanceCrashed(node="box1", model_id="b", instance_id="2", exit_code=-9, generations=0),
            started("c", "3"),
            InstanceLoadFailed(node="box1", model_id="c", instance_id="3", code="load_failed", message="m"),
            started("d", "4"),
            loaded("d", "4"),
            NodeStopped(node="box1", epoch=1),
            started("e", "5", "box2"),
        ]
    )
    told = {lane.model_id: lane.stays[0] for lane in reply.lanes}
    assert [lane.lane_node for lane in reply.lanes] == ["box1"] * 4 + ["box2"]
    assert (told["a"].end, told["a"].end_detail, told["a"].ended_seq) == ("evicted", "b", 4)
    assert (told["a"].bytes, told["a"].resident_seconds, told["a"].version) == (900, 120.0, 3)
    assert told["b"].end == "crashed"
    assert "9" in told["b"].end_detail
    assert (told["c"].end, told["c"].end_detail, told["c"].ready_at) == ("failed", "load_failed", None)
    assert told["d"].end == "shutdown"
    assert (told["e"].ended_at, told["e"].end) == (None, None)


async def test_only_what_was_there_in_the_window_is_told_page_by_page() -> None:
    events: list[Event] = [event for name in "cab" for event in (started(name, name), loaded(name, name))]
    events.append(unloaded("c", "c"))
    whole = await timeline_of(events)
    assert [lane.model_id for lane in whole.lanes] == ["a", "b", "c"]
    late = await timeline_of(events, since=(T0 + timedelta(minutes=30)).timestamp())
    assert [lane.model_id for lane in late.lanes] == ["a", "b"]
    assert [lane.resident_seconds for lane in late.lanes] == [1800.0, 1800.0]
    first = await timeline_of(events, limit=2)
    rest = await timeline_of(events, limit=2, cursor=first.next_cursor)
    assert [*first.lanes, *rest.lanes] == list(whole.lanes)
    assert rest.next_cursor is None
    assert [lane.model_id for lane in (await timeline_of(events, model_id="b")).lanes] == ["b"]
    assert not (await timeline_of(events, of_node="box9")).lanes
    with pytest.raises(InvalidRequest, match="cursor"):
        await timeline_of(events, cursor="nonsense")


async def test_stays_that_cannot_be_told_apart_are_told_as_one() -> None:
    events = [
        event
        for number in range(20)
        for event in (started("a", str(number)), loaded("a", str(number)), unloaded("a", str(number)))
    ]
    (lane,) = (await timeline_of(events, every=SECOND, resolution_seconds=10)).lanes
    (stay,) = lane.stays
    assert (lane.loads, stay.stays, stay.resident_seconds) == (20, 20, 20.0)
    (apart,) = (await timeline_of(events, every=SECOND, resolution_seconds=0)).lanes
    assert len(apart.stays) == 20


# --- bets -------------------------------------------------------------------------------------------------


async def test_bets_are_told_with_what_came_of_them() -> None:
    log = log_of(
        [
            made("1", chance=0.9),
            made("2", "b", chance=0.2),
            made("3"),
            settled("1"),
            settled("2", "b", is_hit=False),
        ]
    )
    now = T0 + timedelta(hours=1)
    async with read_model(HistoryProjection()) as db:
        await fold(db, HistoryProjection(), log)
        reply = await bets.bet_statistics(db, GetBetStatisticsRequest(), now)
        page = await bets.bets(db, GetBetsRequest(limit=2))
        rest = await bets.bets(db, GetBetsRequest(limit=2, cursor=page.next_cursor))
        wastes = await bets.bets(db, GetBetsRequest(outcome="waste"))
        still = await bets.bets(db, GetBetsRequest(outcome="open", model_id="a"))
        with pytest.raises(InvalidRequest, match="cursor"):
            await bets.bets(db, GetBetsRequest(cursor="-1"))
    total = reply.total
    assert (total.made, total.hits, total.wastes, total.open) == (3, 1, 1, 1)
    assert (total.saved_seconds, total.wasted_byte_seconds, total.expected_seconds) == (3.0, 50.0, 12.0)
    assert total.expected_hits == pytest.approx(1.1)
    assert sum(point.figures.made for point in reply.points) == 3
    assert [(each.predicted, each.observed) for each in reply.calibration.curve] == [(0.2, 0.0), (0.9, 1.0)]
    assert reply.calibration.brier == pytest.approx((0.01 + 0.04) / 2)
    assert {(each.reason, each.count) for each in reply.reasons} == {("used", 1), ("not_used", 1)}
    assert [bet.made_seq for bet in (*page.bets, *rest.bets)] == [3, 2, 1]
    assert rest.bets[0].outcome == "hit"
    assert [bet.model_id for bet in wastes.bets] == ["b"]
    assert [bet.made_seq for bet in still.bets] == [3]


# --- metrics and quality ----------------------------------------------------------------------------------


async def test_a_metric_is_told_by_agent_and_step() -> None:
    log = [
        recorded(
            MetricLogged(
                metric_id=str(seq),
                agent_name=agent,
                metric_name="seconds",
                value=float(value),
                timestamp=T0 + timedelta(minutes=minute),
            ),
            seq,
        )
        for seq, (agent, minute, value) in enumerate([("x", 1, 2), ("x", 1, 4), ("y", 1, 9), ("x", 50, 7)], 1)
    ]
    async with read_model(EvaluationProjection()) as db:
        await fold(db, EvaluationProjection(), log)
        (known,) = (await metrics.list_metrics(db, ListMetricsRequest())).metrics
        request = GetMetricSeriesRequest(metric_name="seconds", since=0)
        reply = await metrics.metric_series(db, request, T0 + timedelta(hours=1))
    assert (known.metric_name, known.agents) == ("seconds", ("x", "y"))
    told = {each.agent_name: [(point.count, point.mean) for point in each.points] for each in reply.agents}
    assert told == {"x": [(2, 3.0), (1, 7.0)], "y": [(1, 9.0)]}


changes = st.builds(
    Change,
    at=st.integers(0, 50).map(lambda minutes: T0 + timedelta(minutes=minutes)),
    seq=st.integers(1, 10**6),
    cause=st.sampled_from(["load", "crash"]),
) | st.builds(
    Change,
    at=st.integers(0, 50).map(lambda minutes: T0 + timedelta(minutes=minutes)),
    seq=st.integers(1, 10**6),
    cause=st.just("evaluation"),
    evaluated=st.builds(Evaluated, trust_score=st.floats(0, 1), avg_latency_ms=st.floats(0, 9000)),
)


@given(st.lists(changes, min_size=1, max_size=80, unique_by=lambda each: each.seq), st.integers(1, 20))
def test_trust_over_time_ends_with_the_trust_of_now(happened: list[Change], most: int) -> None:
    points = trust_over_time(happened, most=most)
    latest = sorted((each for each in happened if each.evaluated), key=lambda each: -each.seq)
    now = Evidence(
        evaluations=tuple(each.evaluated for each in latest if each.evaluated is not None),
        loads=sum(each.cause == "load" for each in happened),
        crashes=sum(each.cause == "crash" for each in happened),
    )
    assert points[-1].trust == trust(now)
    assert len(points) <= most
    assert [point.change.at for point in points] == sorted(point.change.at for point in points)


def test_trust_begins_anew_when_the_files_change() -> None:
    def evaluated(seq: int, score: float) -> Change:
        return Change(
            at=T0 + seq * SECOND, seq=seq, cause="evaluation", evaluated=Evaluated(trust_score=score)
        )

    before, change, after = (
        evaluated(1, 0.0),
        Change(at=T0 + 2 * SECOND, seq=2, cause="content"),
        evaluated(3, 1.0),
    )
    points = trust_over_time([before, change, after], most=10)
    assert [point.change.cause for point in points] == ["evaluation", "evaluation"]
    assert points[-1].trust == trust(Evidence(evaluations=(Evaluated(trust_score=1.0),)))
