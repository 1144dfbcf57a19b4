"""However many rows a transaction removes of what has expired, the same are left."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.messages.envelope import Recorded
from suite.messages.events import Event, MetricLogged, UsageRecorded, WaitEnded
from suite.projections import buckets, errors, event_ids, history, projection, samples, usage
from suite.projections.evaluation import EvaluationProjection
from suite.projections.history import HistoryProjection
from suite.projections.projection import EXPIRE_ROWS, Projection
from suite.projections.usage import UsageProjection
from support.folding import T0, expire, expired_as_if_never_there, fold, logs, read_model, recorded, tables

ids = st.sampled_from(["1", "2", "3"])
times = st.integers(-200_000, 200_000).map(lambda tenths: T0 + timedelta(seconds=tenths / 10))
metrics: st.SearchStrategy[Event] = st.builds(
    MetricLogged, metric_id=ids, agent_name=ids, metric_name=ids, value=st.floats(-9, 9), timestamp=times
)
uses: st.SearchStrategy[Event] = st.builds(UsageRecorded, model_id=ids, usage_type=ids)
waits: st.SearchStrategy[Event] = st.builds(WaitEnded, node=ids, model_id=ids, longest_seconds=st.just(1.0))


@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize(
    ("kept", "events"),
    [(EvaluationProjection(), metrics), (UsageProjection(), uses), (HistoryProjection(), waits)],
    ids=["metrics", "uses", "waits"],
)
@given(data=st.data(), rows=st.integers(1, 5), cut=st.integers(0, 30), minutes=st.integers(0, 130))
def test_a_few_rows_at_a_time_leave_what_all_at_once_do(
    kept: Projection, events: st.SearchStrategy[Event], data: st.DataObject, rows: int, cut: int, minutes: int
) -> None:
    log = data.draw(logs(events, expiring=True))
    with pytest.MonkeyPatch.context() as few:
        for module in (projection, event_ids, buckets, samples, usage, errors, history):
            few.setattr(module, "EXPIRE_ROWS", rows)
        anyio.run(expired_as_if_never_there, kept, log, cut, T0 + timedelta(minutes=minutes))


async def test_one_transaction_removes_a_few_thousand_rows_at_most() -> None:
    def sample(seq: int) -> Recorded:
        event = MetricLogged(
            metric_id=str(seq),
            agent_name="a",
            metric_name="m",
            value=1.0,
            timestamp=T0 + timedelta(minutes=seq),
        )
        return recorded(event, seq, expires=T0 if seq % 2 else None)

    kept, log = EvaluationProjection(), [sample(seq) for seq in range(1, 4 * EXPIRE_ROWS)]
    async with read_model(kept) as db, read_model(kept) as anew:
        await fold(db, kept, log)
        await db.execute("BEGIN")
        before = (await tables(db))["performance_metrics"]
        assert await kept.expire(db, T0)
        assert len(before) - len((await tables(db))["performance_metrics"]) == EXPIRE_ROWS
        await db.commit()
        await expire(db, kept, T0)
        await fold(anew, kept, [event for event in log if event.expires is None])
        assert await tables(db) == await tables(anew)
