"""Reading the database of an older service: row by row, beside that service, and nothing taken on trust."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path

import pytest

from suite.errors import LegacyDatabaseUnusable
from suite.legacy.database import ROWS, Entry, OldDatabase
from suite.messages.actions.evaluation import LogModelEvaluationRequest, LogPerformanceMetricRequest
from support.old_database import METRICS, evaluation, execute, metric, old_database


def entries(path: Path, zone: tzinfo = UTC) -> list[Entry]:
    with OldDatabase.open(path, zone=zone) as database:
        found = [entry for table in database.rows for entry in database.entries(table)]
        assert sum(database.rows.values()) == len(found)
        return found


def problem(path: Path) -> str:
    (entry,) = entries(path)
    assert entry.request is None
    return entry.problem or ""


def test_rows_become_the_requests_that_log_them(tmp_path: Path) -> None:
    path = old_database(
        tmp_path / "old.db",
        metrics=[metric("m1", value=2.5, context='{"run": 7}')],
        evaluations=[evaluation("e1", trust=0.75)],
    )
    first, second = entries(path)
    assert (first.table, first.row, first.entry_id) == ("performance_metrics", 1, "m1")
    assert first.request == LogPerformanceMetricRequest(
        metric_id="m1",
        agent_name="planner",
        metric_name="latency_ms",
        value=2.5,
        timestamp="2024-05-01T12:00:00+00:00",
        context='{"run": 7}',
    )
    assert second.request == LogModelEvaluationRequest(
        evaluation_id="e1",
        model_name="phi",
        cycle_id="c1",
        trust_score=0.75,
        accuracy=0.9,
        evaluation_timestamp="2024-05-01T12:00:00+00:00",
        comparison_data='{"n": 1}',
    )


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("2024-05-01 12:00:00.25", "2024-05-01T12:00:00.250000+02:00"),
        ("2024-05-01T12:00:00Z", "2024-05-01T12:00:00+00:00"),
        ("2024-05-01", "2024-05-01T00:00:00+02:00"),
        (1714564800, 1714564800),
        (1714564800.5, 1714564800.5),
    ],
)
def test_times_of_every_kind(tmp_path: Path, stored: str | float, read: str | float) -> None:
    path = old_database(tmp_path / "old.db", metrics=[metric("m", timestamp=stored)])
    (entry,) = entries(path, timezone(timedelta(hours=2)))
    assert isinstance(entry.request, LogPerformanceMetricRequest)
    assert entry.request.timestamp == read


def test_seconds_in_a_column_of_text_are_seconds(tmp_path: Path) -> None:
    path = execute(
        tmp_path / "old.db",
        METRICS.replace("TIMESTAMP", "TEXT"),
        "INSERT INTO performance_metrics VALUES ('m', 'a', 'n', 1, '1714564800.5', NULL)",
    )
    (entry,) = entries(path)
    assert isinstance(entry.request, LogPerformanceMetricRequest)
    assert entry.request.timestamp == 1714564800.5


def test_rows_without_an_id_get_the_same_one_at_every_reading_and_each_its_own(tmp_path: Path) -> None:
    twins = [metric(None), metric(None), metric(None, value=2.0), metric("")]
    path = old_database(tmp_path / "old.db", metrics=twins, evaluations=[evaluation(None)])
    ids = [entry.entry_id for entry in entries(path)]
    assert len(set(ids)) == 5
    assert [entry.entry_id for entry in entries(path)] == ids
    # Other rows before them, as after a VACUUM or a deletion, change nothing.
    other = old_database(tmp_path / "other.db", metrics=[metric("first"), *reversed(twins)])
    assert {entry.entry_id for entry in entries(other)} == {"first", *ids[:4]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (metric("m", value=None), "field 'value': it is NULL, which is how SQLite keeps a NaN"),
        (metric("m", value=float("inf")), "field 'value': it is not finite"),
        (metric("m", value="fast"), "field 'value': expected `float`, got `str`"),
        (metric("m", agent=None), "field 'agent_name': it is NULL"),
        (metric("m", agent=""), "field 'agent_name': expected `str` of length >= 1"),
        (metric("m", timestamp=None), "field 'timestamp': it is NULL"),
        (metric("m" * 201), "field 'metric_id': expected `str` of length <= 200"),
        (metric("m", context=b"\xff\x00"), "field 'context': expected `str | object | array | null`"),
    ],
)
def test_a_metric_that_cannot_be_logged_says_why(tmp_path: Path, row: tuple[str, ...], reason: str) -> None:
    assert reason in problem(old_database(tmp_path / "old.db", metrics=[row]))


@pytest.mark.parametrize(
    ("trust", "reason"), [(1.5, "<= 1.0"), (-0.1, ">= 0.0"), (None, "NULL, which is how SQLite keeps a NaN")]
)
def test_a_trust_out_of_range_says_so(tmp_path: Path, trust: float | None, reason: str) -> None:
    said = problem(old_database(tmp_path / "old.db", evaluations=[evaluation("e", trust=trust)]))
    assert "field 'trust_score'" in said
    assert reason in said


def test_text_that_is_no_utf8_is_refused_and_the_rest_read(tmp_path: Path) -> None:
    path = old_database(tmp_path / "old.db", metrics=[metric("good")])
    execute(
        path,
        "INSERT INTO performance_metrics VALUES ('bad', CAST(x'ff' AS TEXT), 'n', 1, '2024-05-01', NULL)",
    )
    good, bad = entries(path)
    assert good.request is not None
    assert "agent_name" in (bad.problem or "")


def test_either_table_may_be_missing_and_more_columns_follow(tmp_path: Path) -> None:
    path = execute(
        tmp_path / "old.db",
        "CREATE TABLE performance_metrics (agent_name, metric_name, value, timestamp, colour)",
        "INSERT INTO performance_metrics VALUES ('a', 7, 1, '2024-05-01', 'red')",
    )
    with OldDatabase.open(path, zone=UTC) as database:
        assert database.rows == {"performance_metrics": 1}
        (entry,) = database.entries("performance_metrics")
    assert isinstance(entry.request, LogPerformanceMetricRequest)
    assert entry.request.metric_name == "7"
    assert entry.request.metric_id == entry.entry_id


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (["CREATE TABLE notes (text)"], "neither performance_metrics nor model_evaluation_scores"),
        (["CREATE TABLE performance_metrics (metric_id, agent_name, value)"], "no metric_name, timestamp"),
        ([METRICS, "CREATE TABLE suite_checkpoint (projection)"], "read model of this service"),
    ],
)
def test_what_is_no_such_database_is_refused_as_a_whole(
    tmp_path: Path, statements: list[str], reason: str
) -> None:
    path = execute(tmp_path / "old.db", *statements)
    with pytest.raises(LegacyDatabaseUnusable, match=reason), OldDatabase.open(path, zone=UTC):
        pass


def test_what_is_no_database_at_all_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    path.write_text("agent,metric,value\n" * 100)
    with pytest.raises(LegacyDatabaseUnusable, match="not a database"), OldDatabase.open(path, zone=UTC):
        pass
    with pytest.raises(LegacyDatabaseUnusable), OldDatabase.open(tmp_path / "none.db", zone=UTC):
        pass


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_the_older_service_goes_on_writing_while_it_is_read(tmp_path: Path, mode: str) -> None:
    count = 2 * ROWS + 1
    path = old_database(tmp_path / "old.db", metrics=[metric(f"m{number}") for number in range(count)])
    seen: list[str] = []
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as theirs:
        theirs.execute(f"PRAGMA journal_mode = {mode}")
        with OldDatabase.open(path, zone=UTC) as database:
            for entry in database.entries("performance_metrics"):
                seen.append(entry.entry_id)
                if len(seen) in (1, count):  # in the midst of the first rows, and after what was the last
                    theirs.execute(
                        "INSERT INTO performance_metrics VALUES (?, 'a', 'n', 1, ?, NULL)",
                        (f"new{len(seen)}", datetime.now(UTC).isoformat()),
                    )
    assert seen[-2:] == ["new1", f"new{count}"]
    assert len(set(seen)) == len(seen)


def test_reading_changes_nothing(tmp_path: Path) -> None:
    path = old_database(tmp_path / "old.db", metrics=[metric("m")])
    before = path.read_bytes()
    path.chmod(0o400)
    entries(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_one_whose_writer_was_killed_says_how_it_recovers(tmp_path: Path) -> None:
    source = old_database(
        tmp_path / "old.db", metrics=[metric(f"m{n}", context="x" * 500) for n in range(99)]
    )
    path = tmp_path / "killed.db"
    with closing(sqlite3.connect(source, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size = 5")
        db.execute("BEGIN")
        db.execute("UPDATE performance_metrics SET context = 'y' || context")
        for name in ("", "-journal"):
            shutil.copy(f"{source}{name}", f"{path}{name}")
        db.execute("ROLLBACK")
    with pytest.raises(LegacyDatabaseUnusable, match=r"sqlite3 .*killed\.db .* recover"):
        entries(path)
    with closing(sqlite3.connect(path)) as db:  # as that command does
        db.execute("SELECT count(*) FROM performance_metrics").fetchone()
    assert len(entries(path)) == 99
