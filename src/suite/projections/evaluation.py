"""The read model of metric samples and model evaluations. SQL readers open its file directly."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

import aiosqlite

from suite.messages.envelope import Recorded
from suite.messages.events import MetricLogged
from suite.projections import benchmarks, buckets, samples, scores, trust
from suite.projections.projection import Projection


class EvaluationProjection(Projection):
    """Folds metrics, evaluations, benchmarks, loads, crashes and contents of models. Only samples expire."""

    name: ClassVar[str] = "evaluation"
    version: ClassVar[int] = 5
    aggregates: ClassVar[tuple[str, ...]] = ("metric", "evaluation", "benchmark", "instance", "model")
    idempotent: ClassVar[frozenset[str]] = frozenset({"metric", "evaluation"})
    schema: ClassVar[str] = samples.SCHEMA + buckets.SCHEMA + scores.SCHEMA + benchmarks.SCHEMA + trust.SCHEMA

    async def fold(self, db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
        """Apply the events one kind at a time: the kinds do not depend on each other."""
        rows = [samples.row(event, event.data) for event in events if isinstance(event.data, MetricLogged)]
        if rows:
            await buckets.count(db, await samples.add(db, rows))
        await benchmarks.fold(db, events)
        await trust.fold(db, events, await scores.fold(db, events))

    async def expire(self, db: aiosqlite.Connection, now: datetime) -> bool:
        """Remove expired samples, also from the buckets. Returns whether there may be more."""
        more_minutes = await buckets.expire(db, int(now.timestamp()))
        counting, more_samples = await samples.expire(db, now)
        await buckets.count(db, counting)
        return more_minutes or more_samples
