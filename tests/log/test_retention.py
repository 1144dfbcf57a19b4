"""Samples expire, facts stay."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.envelope import Envelope, Recorded
from suite.messages.events import EvaluationLogged, Event, MetricLogged
from suite.messages.subjects import Subjects
from support.nats import running_nats

SUBJECTS = Subjects()
TIME = datetime(2026, 1, 31, 12, 34, 56, tzinfo=UTC)


def sample(number: int) -> MetricLogged:
    return MetricLogged(
        metric_id=f"m{number}", agent_name="a", metric_name="latency", value=number, timestamp=TIME
    )


def fact() -> EvaluationLogged:
    return EvaluationLogged(
        evaluation_id="e", model_name="phi", cycle_id="c", trust_score=0.5, evaluation_timestamp=TIME
    )


@asynccontextmanager
async def opened(directory: Path, retention: dict[str, int]) -> AsyncIterator[Log]:
    async with (
        running_nats(directory) as (_, connection),
        Log.open(
            connection, SUBJECTS, source="/test", new_id=new_id, now=utc_now, retention=retention
        ) as log,
    ):
        yield log


async def stored(log: Log) -> list[Recorded]:
    return [recorded async for recorded in log.read()]


async def test_what_has_a_retention_goes_and_all_else_stays(tmp_path: Path) -> None:
    async with opened(tmp_path, {"metric": 2}) as log:
        seqs = [await log.append(fact())]

        async def append(number: int) -> None:
            seqs.append(await log.append(sample(number)))

        async with anyio.create_task_group() as tasks:
            for number in range(100):  # so many at once that they go in atomic batches
                tasks.start_soon(append, number)
        assert sorted(seqs) == list(range(1, 102))
        with anyio.fail_after(20):
            while len(left := await stored(log)) > 1:
                await anyio.sleep(0.1)
        assert isinstance(left[0].data, EvaluationLogged)
        assert (await log.extent()).last_seq == 101
        assert await log.at(101) is None
        assert (await log.append(fact())) == 102


async def test_an_event_knows_when_its_rows_expire(tmp_path: Path) -> None:
    async with opened(tmp_path, {"metric": 3600}) as log:
        seq = await log.append(sample(1))
        kept = await log.append(fact())
        recorded, other = await log.at(seq), await log.at(kept)
        assert isinstance(recorded, Recorded) and isinstance(other, Recorded)
        assert recorded.expires is not None and other.expires is None
        assert recorded.expires <= recorded.time + timedelta(hours=1)


def read(event: Event, ttl_seconds: int | None) -> Recorded:
    envelope = Envelope(id="1", source="/test", time=TIME, data=event, ttl_seconds=ttl_seconds)
    return Recorded.read(1, envelope.subject(SUBJECTS), envelope.headers(), envelope.body())


@pytest.mark.parametrize(
    ("ttl_seconds", "expires"),
    [
        (None, None),
        (90, datetime(2026, 1, 31, 12, 36, 26, tzinfo=UTC)),
        (86_400, datetime(2026, 2, 1, 12, tzinfo=UTC)),
    ],
)
def test_rows_expire_on_the_hour_before_their_message_does(
    ttl_seconds: int | None, expires: datetime | None
) -> None:
    assert read(sample(1), ttl_seconds).expires == expires
