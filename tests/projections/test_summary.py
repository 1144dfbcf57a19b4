"""What samples come to: exact where it says so, percentiles within 1 % of a sample, over any window."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import aiosqlite
import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from suite.errors import InvalidRequest
from suite.messages.actions.evaluation import MetricSummary, SummaryReply, SummaryRequest
from suite.messages.envelope import Recorded
from suite.messages.events import MetricLogged
from suite.projections.buckets import AFTER_ALL, BEFORE_ALL, MINUTE, WIDTHS, cover, minute_of
from suite.projections.evaluation import EvaluationProjection
from suite.projections.sketch import RELATIVE_ERROR, Sketch
from suite.projections.summary import summary
from support.folding import T0, expire, fold, read_model, recorded

PROJECTION = EvaluationProjection()
DAY = timedelta(days=1)
DENORMAL = sys.float_info.min * 1.1

values = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1000, 1000),
    st.sampled_from([0.0, -0.0, 5e-324, -DENORMAL, sys.float_info.max, -sys.float_info.max]),
)


def sample(
    value: float, at: datetime = T0, *, agent: str = "a", metric: str = "m", id: str | None = None
) -> MetricLogged:
    return MetricLogged(
        metric_id=id or f"{agent}-{metric}-{at.isoformat()}-{value}",
        agent_name=agent,
        metric_name=metric,
        value=value,
        timestamp=at,
    )


def log_of(samples: Sequence[MetricLogged]) -> list[Recorded]:
    """Each sample under an id of its own."""
    return [
        recorded(sample(each.value, each.timestamp, agent=each.agent_name, id=f"s{seq}"), seq)
        for seq, each in enumerate(samples, start=1)
    ]


def agrees(found: MetricSummary, expected: Sequence[float]) -> None:
    """The figures are those of the samples, percentiles by nearest rank."""
    ordered = sorted(expected)
    assert found.count == len(ordered)
    assert (found.min, found.max) == (ordered[0], ordered[-1])
    assert found.mean == float(sum(map(Fraction, ordered)) / len(ordered))
    for percent, value in ((50, found.p50), (95, found.p95), (99, found.p99)):
        exact = ordered[max(0, -(-percent * len(ordered) // 100) - 1)]
        assert abs(value - exact) <= abs(exact) * (RELATIVE_ERROR + 1e-9) or abs(exact) <= DENORMAL


@pytest.fixture
async def db() -> AsyncIterator[aiosqlite.Connection]:
    async with read_model(PROJECTION) as db:
        yield db


async def asked(db: aiosqlite.Connection, **request: str | float) -> SummaryReply:
    return await summary(db, SummaryRequest(metric_name="m", **request))  # type: ignore[arg-type]


# --- sketches ---------------------------------------------------------------------------------------------


@given(st.lists(values, min_size=1, max_size=60), st.data())
def test_sketches_merged_in_any_way_are_the_same_bytes(samples: list[float], data: st.DataObject) -> None:
    whole = Sketch()
    for value in samples:
        whole.add(value)
    merged = Sketch()
    shuffled = data.draw(st.permutations(samples))
    cut = data.draw(st.integers(0, len(samples)))
    for part in (shuffled[:cut], shuffled[cut:]):
        one = Sketch()
        for value in part:
            one.add(value)
        if one.count:
            merged.absorb(one.pack())
    assert merged.pack() == whole.pack()


@given(st.lists(values, min_size=1, max_size=200))
@example([sys.float_info.max] * 3)
@example([5e-324])
@example([-1e308, 1e308, 0.0])
def test_figures_are_exact_and_percentiles_within_the_error(samples: list[float]) -> None:
    sketch = Sketch()
    for value in samples:
        sketch.add(value)
    p50, p95, p99 = sketch.percentiles(50, 95, 99)
    agrees(
        MetricSummary(
            agent_name=None,
            count=sketch.count,
            mean=sketch.mean,
            min=sketch.low,
            max=sketch.high,
            p50=p50,
            p95=p95,
            p99=p99,
        ),
        samples,
    )


# --- windows ----------------------------------------------------------------------------------------------


@given(st.integers(-(10**8), 10**8), st.integers(0, 10**7))
def test_a_window_is_covered_once_by_whole_buckets(begin: int, minutes: int) -> None:
    begin, end = begin * MINUTE, (begin + minutes) * MINUTE
    pieces = cover(begin, end)
    assert all(piece.begin % piece.width == piece.end % piece.width == 0 for piece in pieces)
    edges = [begin, *(piece.end for piece in pieces)]
    assert [piece.begin for piece in pieces] == edges[:-1]
    assert edges[-1] == end
    assert len(pieces) <= 2 * len(WIDTHS) - 1


def test_no_limits_are_one_piece() -> None:
    assert len(cover(BEFORE_ALL, AFTER_ALL)) == 1


def test_minutes_begin_downwards_before_1970_too() -> None:
    odd = datetime(1969, 12, 31, 23, 58, 30, tzinfo=UTC)
    assert (minute_of(odd), minute_of(odd, up=True)) == (-120, -60)
    assert minute_of(datetime(1970, 1, 1, 0, 1, tzinfo=UTC), up=True) == 60


moments = st.integers(0, 71 * 86_400).map(lambda seconds: T0 - timedelta(seconds=seconds))
close = st.integers(0, 7200).map(lambda seconds: T0 + timedelta(seconds=seconds))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.builds(sample, values, moments | close, agent=st.sampled_from("ab")), max_size=40),
    st.none() | moments | close,
    st.none() | moments | close,
    st.sampled_from(["a", "b", None]),
)
def test_a_summary_is_that_of_the_samples_in_its_widened_window(
    samples: list[MetricLogged], since: datetime | None, until: datetime | None, agent: str | None
) -> None:
    if since is not None and until is not None and until <= since:
        since, until = until, since + timedelta(seconds=1)
    begin = None if since is None else since.replace(second=0, microsecond=0)
    end = None if until is None else -((-until.timestamp()) // 60) * 60

    def wanted(one: MetricLogged, agents: str) -> bool:
        after = begin is None or one.timestamp >= begin
        return one.agent_name in agents and after and (end is None or one.timestamp.timestamp() < end)

    async def check() -> None:
        async with read_model(PROJECTION) as db:
            await fold(db, PROJECTION, log_of(samples), cuts=(3, 7))
            request = SummaryRequest(
                metric_name="m",
                agent_name=agent,
                since=None if since is None else since.isoformat(),
                until=None if until is None else until.isoformat(),
            )
            reply = await summary(db, request)
        for found in reply.by_agent:
            agrees(found, [one.value for one in samples if wanted(one, found.agent_name or "")])
        together = [one.value for one in samples if wanted(one, agent or "ab")]
        assert [found.agent_name for found in reply.by_agent] == sorted(
            {one.agent_name for one in samples if wanted(one, agent or "ab")}
        )
        if together:
            assert reply.total is not None
            agrees(reply.total, together)
        else:
            assert reply.total is None

    anyio.run(check)


async def test_the_reply_tells_the_window_that_was_counted(db: aiosqlite.Connection) -> None:
    reply = await asked(db, since="2026-03-01T12:00:30Z", until="2026-03-01 12:01:00.000001")
    assert (reply.since, reply.until) == (
        "2026-03-01T12:00:00.000000+00:00",
        "2026-03-01T12:02:00.000000+00:00",
    )
    reply = await asked(db)
    assert (reply.since, reply.until, reply.relative_error) == (None, None, 0.01)


async def test_the_first_and_the_last_time_there_is_are_no_trouble(db: aiosqlite.Connection) -> None:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    await fold(db, PROJECTION, log_of([sample(1.0, first), sample(2.0, last)]))
    reply = await asked(db, since=first.isoformat(), until=last.isoformat())
    assert reply.total is not None
    assert reply.total.count == 2
    assert (reply.since, reply.until) == ("0001-01-01T00:00:00.000000+00:00", None)


@pytest.mark.parametrize(
    "request_",
    [
        {"since": "yesterday"},
        {"until": "2026-13-01"},
        {"since": "2026-03-01T12:00:30Z", "until": "2026-03-01T12:00:10Z"},
        {"since": "2026-03-01", "until": "2026-03-01"},
    ],
)
async def test_a_window_that_is_none_is_refused(db: aiosqlite.Connection, request_: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match=r"since|until"):
        await asked(db, **request_)


# --- what is counted --------------------------------------------------------------------------------------


async def test_a_sample_counts_once_however_often_its_id_comes(db: aiosqlite.Connection) -> None:
    log = [recorded(sample(float(seq), id="same"), seq) for seq in range(1, 4)]
    await fold(db, PROJECTION, log, cuts=(2,))
    reply = await asked(db)
    assert reply.total is not None
    agrees(reply.total, [1.0])


async def test_other_metrics_and_sql_in_names_are_just_other_names(db: aiosqlite.Connection) -> None:
    odd = "m' OR '1'='1"
    await fold(
        db, PROJECTION, [recorded(sample(1.0), 1), recorded(sample(5.0, metric=odd, agent="x\0'--"), 2)]
    )
    reply = await summary(db, SummaryRequest(metric_name=odd))
    assert [(found.agent_name, found.max) for found in reply.by_agent] == [("x\0'--", 5.0)]
    assert (await asked(db)).by_agent[0].count == 1
    assert (await summary(db, SummaryRequest(metric_name="%"))).total is None


async def test_what_expires_leaves_the_buckets_at_once_and_the_rest_stays(db: aiosqlite.Connection) -> None:
    ends = [T0 + DAY, T0 + 2 * DAY, None]
    log = [
        recorded(
            sample(float(seq), T0 + timedelta(seconds=seq), agent="ab"[seq % 2], id=str(seq)),
            seq,
            expires=ends[seq % 3],
        )
        for seq in range(1, 31)
    ]
    await fold(db, PROJECTION, log)
    for now, gone in ((T0, 0), (T0 + DAY, 1), (T0 + 9 * DAY, 2)):
        await expire(db, PROJECTION, now)
        reply = await asked(db)
        assert reply.total is not None
        agrees(reply.total, [float(seq) for seq in range(1, 31) if seq % 3 >= gone])


async def test_a_repeated_sample_counts_when_the_first_has_expired(db: aiosqlite.Connection) -> None:
    log = [
        recorded(sample(1.0, id="same"), 1, expires=T0 + DAY),
        recorded(sample(2.0, id="same"), 2, expires=T0 + 2 * DAY),
    ]
    await fold(db, PROJECTION, log)
    await expire(db, PROJECTION, T0 + DAY)
    reply = await asked(db)
    assert reply.total is not None
    agrees(reply.total, [2.0])
    await expire(db, PROJECTION, T0 + 2 * DAY)
    assert (await asked(db)).total is None
