"""Judges read models: each has the rows that a fresh fold of the same events has, and follows to the end."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from suite.messages.envelope import Recorded
from suite.messages.subjects import aggregate_of
from suite.projections.catalogue import CatalogueProjection
from suite.projections.errors import ErrorsProjection
from suite.projections.evaluation import EvaluationProjection
from suite.projections.history import HistoryProjection
from suite.projections.projection import Projection
from suite.projections.usage import UsageProjection
from support.durability.findings import Finding
from support.folding import Tables, fold, read_model, tables

PROJECTIONS: Final[dict[str, Projection]] = {
    "catalogue": CatalogueProjection(),
    "usage": UsageProjection(),
    "model_evaluation": EvaluationProjection(),
    "errors": ErrorsProjection(),
    "history": HistoryProjection(),
}
"""By the names of their files."""
_OF_THE_FILE: Final = frozenset({"suite_checkpoint", "suite_ledger", "suite_unreadable"})
"""Tables that say how far the file is, not what it says."""


class Live(NamedTuple):
    """A read model's file at one moment."""

    seq: int
    tables: Tables


async def judged_read_models(data_dir: Path, events: Sequence[Recorded]) -> list[Finding]:
    """What is wrong with the read models of a node that has no more to fold."""
    found: list[Finding] = []
    for name, projection in PROJECTIONS.items():
        own = [event for event in events if aggregate_of(event.subject)[0] in projection.aggregates]
        found += await _judged(name, data_dir / "projections" / f"{name}.db", projection, own)
    return found


async def _judged(name: str, path: Path, projection: Projection, events: Sequence[Recorded]) -> list[Finding]:
    try:
        live = _read(path)
    except sqlite3.Error as error:
        return [Finding("read model", f"{name} cannot be read: {error}")]
    end = events[-1].seq if events else 0
    if live.seq < end:
        return [Finding("read model", f"{name} is at {live.seq}, and its last event is at {end}")]
    fresh = await _fresh(projection, [event for event in events if event.seq <= live.seq])
    return [
        Finding("read model", f"{name}.{table}: {_difference(live.tables.get(table, []), rows)}")
        for table, rows in fresh.items()
        if sorted(live.tables.get(table, []), key=repr) != sorted(rows, key=repr)
    ]


def _read(path: Path) -> Live:
    """All rows of one moment, with the checkpoint of it."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)) as db:
        db.execute("BEGIN")
        ((seq,),) = db.execute("SELECT seq FROM suite_checkpoint")
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return Live(seq, {name: db.execute(f'SELECT * FROM "{name}"').fetchall() for name in names})


async def _fresh(projection: Projection, events: Sequence[Recorded]) -> Tables:
    async with read_model(projection) as db:
        await fold(db, projection, events)
        found = await tables(db)
    return {name: rows for name, rows in found.items() if name not in _OF_THE_FILE}


def _difference(live: Sequence[tuple[object, ...]], fresh: Sequence[tuple[object, ...]]) -> str:
    more = [row for row in live if row not in fresh]
    less = [row for row in fresh if row not in live]
    return f"{len(more)} rows too many ({more[:1]}), {len(less)} too few ({less[:1]}), by a fresh fold"
