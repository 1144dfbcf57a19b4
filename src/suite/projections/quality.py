"""How evaluations of a model and the trust in it went over time.

Evaluations are in one read model, loads and crashes in another: each gives its part of what has happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import aiosqlite

from suite.domain.trust import Evaluated
from suite.domain.trust_over_time import Change, trust_over_time
from suite.messages.actions.statistics import EvaluationPoint, ModelQuality, TrustPoint
from suite.messages.times import from_sql, rfc3339, to_sql
from suite.projections.trust import trusts


class Evaluations(NamedTuple):
    """What the read model of evaluations knows of a model."""

    trust: float | None
    points: tuple[EvaluationPoint, ...]
    """Those in the window, the oldest first."""
    changes: tuple[Change, ...]
    """All that were not retracted."""
    content_since: int
    """The event by which the files of the model changed the last time; 0: they did not."""


async def evaluations_of(
    db: aiosqlite.Connection, model_name: str, since: datetime | None, until: datetime | None
) -> Evaluations:
    """The evaluations of a model."""
    rows = await db.execute_fetchall(
        "SELECT seq, evaluation_id, cycle_id, trust_score, accuracy, f1_score, avg_latency_ms, "
        "evaluation_timestamp, version FROM model_evaluation_scores WHERE model_name = ? "
        "ORDER BY evaluation_timestamp, seq",
        (model_name,),
    )
    found = await db.execute_fetchall(
        "SELECT content_since FROM model_facts WHERE model_name = ?", (model_name,)
    )
    begin, end = _bounds(since, until)
    points, changes = [], []
    for seq, evaluation_id, cycle_id, trust_score, accuracy, f1_score, latency, at, version in rows:
        changes.append(
            Change(
                at=from_sql(at),
                seq=seq,
                cause="evaluation",
                evaluated=Evaluated(trust_score=trust_score, avg_latency_ms=latency),
            )
        )
        if begin <= at < end:
            points.append(
                EvaluationPoint(
                    evaluation_id=evaluation_id,
                    cycle_id=cycle_id,
                    trust_score=trust_score,
                    accuracy=accuracy,
                    f1_score=f1_score,
                    avg_latency_ms=latency,
                    evaluation_timestamp=rfc3339(from_sql(at)),
                    version=version,
                )
            )
    return Evaluations(
        trust=(await trusts(db, [model_name])).get(model_name),
        points=tuple(points),
        changes=tuple(changes),
        content_since=next((since for (since,) in found), 0),
    )


class Lives(NamedTuple):
    """What the read model of histories knows of a model, as its rows."""

    stays: Iterable[Any]
    """The loads that were ready: their event, their time, the event of their end, when they crashed."""
    content: tuple[str, int] | None
    """When the files of the model changed the last time, and the event of that."""


async def lives_of(db: aiosqlite.Connection, model_id: str, content_since: int) -> Lives:
    """The loads and crashes of a model, and when its files changed."""
    rows = await db.execute_fetchall(
        "SELECT begun_seq, ready_at, ended_seq, iif(end = 'crashed', ended_at, NULL) FROM stays "
        "WHERE model_id = ? AND ready_at IS NOT NULL",
        (model_id,),
    )
    found = await db.execute_fetchall(
        "SELECT at FROM history WHERE model_id = ? AND seq = ?", (model_id, content_since)
    )
    return Lives(rows, next(((at, content_since) for (at,) in found), None))


def _changes(lives: Lives) -> Iterator[Change]:
    for begun_seq, ready_at, ended_seq, crashed_at in lives.stays:
        yield Change(at=from_sql(ready_at), seq=begun_seq, cause="load")
        if crashed_at is not None:
            yield Change(at=from_sql(crashed_at), seq=ended_seq, cause="crash")
    if lives.content is not None:
        at, seq = lives.content
        yield Change(at=from_sql(at), seq=seq, cause="content")


def quality(
    model_name: str,
    evaluations: Evaluations,
    lives: Lives,
    *,
    since: datetime | None,
    until: datetime | None,
    most: int,
) -> ModelQuality:
    """What is told of a model, at most so many points of each kind. Of many loads it takes a while."""
    begin, end = _bounds(since, until)
    changes = sorted((*evaluations.changes, *_changes(lives)), key=lambda each: (each.at, each.seq))
    changes = [each for each in changes if to_sql(each.at) < end]
    earlier = sum(to_sql(each.at) < begin for each in changes)
    points = trust_over_time(changes, begin=max(earlier - 1, 0), most=most)
    return ModelQuality(
        model_name=model_name,
        trust=evaluations.trust,
        evaluations=_thinned(evaluations.points, most),
        evaluations_in_window=len(evaluations.points),
        trust_points=tuple(
            TrustPoint(at=rfc3339(point.change.at), trust=point.trust, cause=point.change.cause)
            for point in points
        ),
    )


def _thinned(points: tuple[EvaluationPoint, ...], most: int) -> tuple[EvaluationPoint, ...]:
    """At most so many of them, evenly spread, the last one among them."""
    if len(points) <= most:
        return points
    return tuple(points[(number + 1) * len(points) // most - 1] for number in range(most))


def _bounds(since: datetime | None, until: datetime | None) -> tuple[str, str]:
    return "" if since is None else to_sql(since), "~" if until is None else to_sql(until)
