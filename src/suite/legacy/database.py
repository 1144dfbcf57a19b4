"""Reads the rows of an old ``model_evaluation.db`` as the requests that log them here::

    with OldDatabase.open(path, zone=UTC) as database:
        for table in database.rows:
            for entry in database.entries(table):
                ...

It reads a few hundred rows at a time and holds no lock in between, so the older service may go on writing.
"""

from __future__ import annotations

import math
import re
import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from suite.bus.decoding import Shape
from suite.errors import InvalidRequest, LegacyDatabaseUnusable
from suite.messages.actions.evaluation import LogModelEvaluationRequest, LogPerformanceMetricRequest

ROWS: Final = 500
"""How many rows are read at once."""

BUSY_SECONDS: Final = 30.0
"""How long a read waits for a writer's lock."""

METRICS: Final = "performance_metrics"
EVALUATIONS: Final = "model_evaluation_scores"

_NAMESPACE: Final = uuid.UUID("6d0fb0f6-5b0c-5d83-9d0e-4f3a1c1f7f52")
_OURS: Final = "suite_checkpoint"
_is_seconds: Final = re.compile(r"\s*\d{9,10}(\.\d*)?\s*").fullmatch

LogRequest: TypeAlias = LogPerformanceMetricRequest | LogModelEvaluationRequest


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One row."""

    table: str
    row: int
    """Its rowid."""
    entry_id: str
    """The row's own id, or one derived from its content if it has none."""
    request: LogRequest | None
    """The request that logs the row; None if it cannot be logged."""
    problem: str | None = None
    """Why it cannot be logged."""


class _Table(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    entry_id: str
    time: str
    needed: tuple[str, ...]
    others: tuple[str, ...]
    shape: Shape[LogPerformanceMetricRequest] | Shape[LogModelEvaluationRequest]
    numbers: frozenset[str]

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.entry_id, *self.needed, *self.others)


_TABLES: Final = (
    _Table(
        name=METRICS,
        entry_id="metric_id",
        time="timestamp",
        needed=("agent_name", "metric_name", "value", "timestamp"),
        others=("context",),
        shape=Shape(LogPerformanceMetricRequest),
        numbers=frozenset({"value"}),
    ),
    _Table(
        name=EVALUATIONS,
        entry_id="evaluation_id",
        time="evaluation_timestamp",
        needed=("model_name", "cycle_id", "trust_score", "evaluation_timestamp"),
        others=("accuracy", "f1_score", "avg_latency_ms", "comparison_data"),
        shape=Shape(LogModelEvaluationRequest),
        numbers=frozenset({"trust_score", "accuracy", "f1_score", "avg_latency_ms"}),
    ),
)


class OldDatabase:
    """An old database, opened for reading. Its methods block, and raise LegacyDatabaseUnusable."""

    def __init__(self, path: Path, db: sqlite3.Connection, zone: tzinfo) -> None:
        self._path = path
        self._db = db
        self._zone = zone
        self._tables = {table: self._columns(table) for table in _TABLES if self._exists(table.name)}
        self.rows: Mapping[str, int] = {table.name: self._count(table) for table in self._tables}
        """The number of rows of each table that exists."""
        self._seen: Counter[int] = Counter()

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, zone: tzinfo) -> Iterator[OldDatabase]:
        """Open the database at a path. ``zone`` is the time zone of times that do not name one.

        Raises LegacyDatabaseUnusable if it is not such a database, or is a read model of this service.
        """
        try:
            db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro",
                uri=True,
                isolation_level=None,
                timeout=BUSY_SECONDS,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise _unusable(path, str(error)) from None
        try:
            db.text_factory = _text
            database = cls(path, db, zone)
            database._check()
            yield database
        finally:
            db.close()

    def entries(self, name: str) -> Iterator[Entry]:
        """Yield every row of an existing table, in the order in which they were written."""
        table, columns = next(each for each in self._tables.items() if each[0].name == name)
        for row, values in self._read(table, columns):
            yield self._entry(table, row, dict(zip(columns, values, strict=True)))

    def _check(self) -> None:
        if self._exists(_OURS):
            raise _unusable(
                self._path,
                "it is a read model of this service, whose rows are in the log already; the older service's "
                "file is kept beside it, with .foreign-1 in its name, if it was at this path",
            )
        if not self._tables:
            raise _unusable(self._path, f"it has neither {' nor '.join(table.name for table in _TABLES)}")
        for table, columns in self._tables.items():
            if missing := set(table.needed).difference(columns):
                raise _unusable(self._path, f"{table.name} has no {', '.join(sorted(missing))}")

    # --- rows ---------------------------------------------------------------------------------------------

    def _read(self, table: _Table, columns: tuple[str, ...]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        after = -(2**63)
        query = f"SELECT rowid, {', '.join(columns)} FROM {table.name} WHERE rowid > ? ORDER BY rowid LIMIT ?"
        while found := self._all(query, after, ROWS):
            for row, *values in found:
                yield row, tuple(values)
            after = found[-1][0]

    def _entry(self, table: _Table, row: int, values: dict[str, Any]) -> Entry:
        entry_id = str(values.get(table.entry_id) or "") or self._made_of(table, values)
        as_it_is = table.numbers | {table.time}
        fields: dict[str, Any] = {
            name: value if name in as_it_is or isinstance(value, bytes) else str(value)
            for name, value in values.items()
            if value is not None
        }
        fields[table.entry_id] = entry_id
        try:
            for name in table.needed:
                if name not in fields:
                    null = "NULL, which is how SQLite keeps a NaN" if name in table.numbers else "NULL"
                    raise InvalidRequest(f"field '{name}': it is {null}")
            for name in table.numbers & fields.keys():
                if isinstance(fields[name], float) and not math.isfinite(fields[name]):
                    raise InvalidRequest(f"field '{name}': it is not finite")
            fields[table.time] = self._in_zone(fields[table.time])
            request = table.shape.read(fields)
        except InvalidRequest as error:
            return Entry(table=table.name, row=row, entry_id=entry_id, request=None, problem=error.message)
        return Entry(table=table.name, row=row, entry_id=entry_id, request=request)

    def _made_of(self, table: _Table, values: Mapping[str, Any]) -> str:
        """An id for a row without one. It is the same at every reading, and differs between equal rows."""
        content = repr([table.name, *(values.get(name) for name in table.columns)])
        seed = uuid.uuid5(_NAMESPACE, content)
        number = self._seen[seed.int]
        self._seen[seed.int] += 1
        return str(uuid.uuid5(seed, str(number)) if number else seed)

    def _in_zone(self, time: Any) -> Any:
        """Add the database's time zone to a time that names none.

        A value that is not a time is returned unchanged: decoding the request then reports it.
        """
        if not isinstance(time, str):
            return time
        if _is_seconds(time):  # seconds since 1970, stored in a text column
            return float(time)
        try:
            at = datetime.fromisoformat(time.strip())
        except ValueError:
            return time
        return (at if at.tzinfo else at.replace(tzinfo=self._zone)).isoformat()

    # --- SQLite -------------------------------------------------------------------------------------------

    def _exists(self, name: str) -> bool:
        return bool(self._all("SELECT 1 FROM sqlite_master WHERE type = 'table' AND lower(name) = ?", name))

    def _columns(self, table: _Table) -> tuple[str, ...]:
        found = {
            str(name).lower() for (name,) in self._all("SELECT name FROM pragma_table_info(?)", table.name)
        }
        return tuple(name for name in table.columns if name in found)

    def _count(self, table: _Table) -> int:
        ((count,),) = self._all(f"SELECT count(*) FROM {table.name}")
        return int(count)

    def _all(self, query: str, *values: str | int) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_ROLLBACK:
                why = f"who wrote to it was killed; `sqlite3 {self._path} .tables` lets it recover, once"
                raise _unusable(self._path, why) from None
            raise _unusable(self._path, str(error)) from None


def _text(data: bytes) -> str | bytes:
    """Decode text. Bytes that are not UTF-8 stay bytes, and are refused later."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _unusable(path: Path, why: str) -> LegacyDatabaseUnusable:
    return LegacyDatabaseUnusable(f"{path} cannot be imported: {why}")
