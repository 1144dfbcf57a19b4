"""A `model_evaluation.db` as the older service made it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

METRICS = """
CREATE TABLE performance_metrics (
    metric_id TEXT PRIMARY KEY, agent_name TEXT, metric_name TEXT, value REAL, timestamp TIMESTAMP,
    context TEXT
)
"""
EVALUATIONS = """
CREATE TABLE model_evaluation_scores (
    evaluation_id TEXT PRIMARY KEY, model_name TEXT, cycle_id TEXT, trust_score REAL, accuracy REAL,
    f1_score REAL, avg_latency_ms REAL, evaluation_timestamp TIMESTAMP, comparison_data TEXT
)
"""

Row = Sequence[str | float | bytes | None]


def old_database(path: Path, *, metrics: Iterable[Row] = (), evaluations: Iterable[Row] = ()) -> Path:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(METRICS)
        db.execute(EVALUATIONS)
        db.executemany("INSERT INTO performance_metrics VALUES (?, ?, ?, ?, ?, ?)", metrics)
        db.executemany("INSERT INTO model_evaluation_scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", evaluations)
    return path


def execute(path: Path, *statements: str) -> Path:
    """A database of these statements' making."""
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)
    return path


def metric(
    metric_id: str | None,
    *,
    agent: str | None = "planner",
    name: str = "latency_ms",
    value: float | str | None = 1.0,
    timestamp: str | float | None = "2024-05-01 12:00:00",
    context: str | bytes | None = None,
) -> Row:
    return (metric_id, agent, name, value, timestamp, context)


def evaluation(
    evaluation_id: str | None,
    *,
    model: str = "phi",
    cycle: str = "c1",
    trust: float | None = 0.5,
    timestamp: str = "2024-05-01 12:00:00",
) -> Row:
    return (evaluation_id, model, cycle, trust, 0.9, None, None, timestamp, '{"n": 1}')
