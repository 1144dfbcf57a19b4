"""Bets on what is used next, a row each: what was expected, and what came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import aiosqlite

from suite.errors import InvalidRequest
from suite.messages.actions.prediction import CalibrationInfo, ReliabilityBin
from suite.messages.actions.statistics import (
    Bet,
    BetFigures,
    BetPoint,
    BetReasonCount,
    GetBetsReply,
    GetBetsRequest,
    GetBetStatisticsReply,
    GetBetStatisticsRequest,
)
from suite.messages.envelope import Recorded
from suite.messages.events import PredictionMade, PredictionSettled
from suite.messages.times import from_sql, parse_time, rfc3339, to_sql
from suite.prediction.chance import BINS
from suite.projections.buckets import minute_of, time_of
from suite.projections.over_time import Window
from suite.projections.reply_size import as_many_as_fit

SCHEMA: Final = """
    CREATE TABLE bets (
        made_seq INTEGER PRIMARY KEY,
        prediction_id TEXT NOT NULL UNIQUE,
        model_id TEXT NOT NULL,
        node TEXT NOT NULL,
        made_at TEXT NOT NULL,
        chance REAL NOT NULL,
        saves_seconds REAL NOT NULL,
        costs_seconds REAL NOT NULL,
        bytes INTEGER NOT NULL,
        settled_at TEXT,
        settled_seq INTEGER,
        outcome TEXT,
        reason TEXT,
        detail TEXT NOT NULL DEFAULT '',
        used INTEGER,
        saved_seconds REAL NOT NULL DEFAULT 0,
        byte_seconds REAL NOT NULL DEFAULT 0
    );
    CREATE INDEX bets_by_time ON bets (made_at);
    CREATE INDEX bets_by_model ON bets (model_id, made_at);
"""

_MAX_SEQ: Final = 2**63 - 1
_FIGURES: Final = (
    "count(*), count(*) FILTER (WHERE outcome = 'hit'), count(*) FILTER (WHERE outcome = 'waste'), "
    "count(*) FILTER (WHERE outcome IS NULL), sum(saves_seconds), "
    "coalesce(sum(chance) FILTER (WHERE outcome IS NOT NULL), 0), sum(saved_seconds), "
    "coalesce(sum(byte_seconds) FILTER (WHERE outcome = 'waste'), 0)"
)
_BET: Final = (
    "made_seq, model_id, node, made_at, chance, saves_seconds, costs_seconds, bytes, settled_at, "
    "settled_seq, outcome, reason, detail, saved_seconds, byte_seconds"
)


async def fold(db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
    """Insert bets that were taken, and say of them how they have ended. The first end counts."""
    made = [_made(event.seq, event.time, event.data) for event in events if _is_made(event)]
    settled = [_settled(event.seq, event.time, event.data) for event in events if _is_settled(event)]
    if made:
        await db.executemany(
            "INSERT INTO bets (made_seq, prediction_id, model_id, node, made_at, chance, saves_seconds, "
            "costs_seconds, bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            made,
        )
    if settled:
        await db.executemany(
            "UPDATE bets SET settled_at = :at, settled_seq = :seq, outcome = :outcome, reason = :reason, "
            "detail = :detail, used = :used, saved_seconds = :saved, byte_seconds = :byte_seconds "
            "WHERE prediction_id = :prediction_id AND made_seq < :seq AND settled_seq IS NULL",
            settled,
        )


def _is_made(recorded: Recorded) -> bool:
    return isinstance(recorded.data, PredictionMade)


def _is_settled(recorded: Recorded) -> bool:
    return isinstance(recorded.data, PredictionSettled)


def _made(seq: int, time: datetime, event: Any) -> tuple[object, ...]:
    assert isinstance(event, PredictionMade)
    return (
        seq,
        event.prediction_id,
        event.model_id,
        event.node,
        to_sql(time),
        event.chance,
        event.saves_seconds,
        event.costs_seconds,
        event.bytes,
    )


def _settled(seq: int, time: datetime, event: Any) -> Mapping[str, object]:
    assert isinstance(event, PredictionSettled)
    return {
        "at": to_sql(time),
        "seq": seq,
        "outcome": event.outcome,
        "reason": event.reason,
        "detail": event.detail,
        "used": event.used,
        "saved": event.saved_seconds,
        "byte_seconds": event.byte_seconds,
        "prediction_id": event.prediction_id,
    }


async def bet_statistics(
    db: aiosqlite.Connection, request: GetBetStatisticsRequest, now: datetime
) -> GetBetStatisticsReply:
    """What bets have brought over a window, by when they were taken.

    Raises InvalidRequest for an invalid time, and for a window that does not end after it begins.
    """
    window = Window.of(request, await _begin(db), now)
    where = "made_at >= ? AND made_at < ?"
    values: list[object] = [to_sql(time_of(window.begin)), to_sql(time_of(window.end))]
    if request.model_id is not None:
        where += " AND model_id = ?"
        values.append(request.model_id)
    points = await db.execute_fetchall(
        "SELECT CAST(strftime('%s', substr(made_at, 1, 19)) AS INTEGER) / ? AS step, "
        f"{_FIGURES} FROM bets WHERE {where} GROUP BY step ORDER BY step",
        (window.step, *values),
    )
    ((*total,),) = await db.execute_fetchall(f"SELECT {_FIGURES} FROM bets WHERE {where}", values)
    reasons = await db.execute_fetchall(
        f"SELECT reason, detail, count(*) AS count FROM bets WHERE {where} AND reason IS NOT NULL "
        "GROUP BY reason, detail ORDER BY count DESC, reason, detail LIMIT 20",
        values,
    )
    return GetBetStatisticsReply(
        since=rfc3339(time_of(window.begin)),
        until=rfc3339(time_of(window.end)),
        step_seconds=window.step,
        total=_figures(total),
        points=tuple(
            BetPoint(start=rfc3339(time_of(step * window.step)), figures=_figures(row))
            for step, *row in points
        ),
        reasons=tuple(
            BetReasonCount(reason=reason, detail=detail, count=count) for reason, detail, count in reasons
        ),
        calibration=await _calibration(db, where, values),
    )


async def _begin(db: aiosqlite.Connection) -> int | None:
    ((at,),) = await db.execute_fetchall("SELECT min(made_at) FROM bets")
    return None if at is None else minute_of(from_sql(at))


def _figures(row: Sequence[Any]) -> BetFigures:
    made, hits, wastes, open_, expected, expected_hits, saved, wasted = row
    return BetFigures(
        made=made,
        hits=hits,
        wastes=wastes,
        open=open_,
        expected_seconds=round(expected or 0.0, 3),
        expected_hits=round(expected_hits, 3),
        saved_seconds=round(saved or 0.0, 3),
        wasted_byte_seconds=round(wasted, 1),
    )


async def _calibration(db: aiosqlite.Connection, where: str, values: Sequence[object]) -> CalibrationInfo:
    """How often models were used on which there were bets, by the chances of these bets."""
    bins = await db.execute_fetchall(
        f"SELECT min(CAST(chance * {BINS} AS INTEGER), {BINS - 1}) AS bin, count(*), avg(chance), avg(used), "
        f"sum((chance - used) * (chance - used)) FROM bets WHERE {where} AND used IS NOT NULL "
        "GROUP BY bin ORDER BY bin",
        values,
    )
    rows = [(count, predicted, observed, squares) for _, count, predicted, observed, squares in bins]
    settled = sum(count for count, *_ in rows)
    rate = sum(count * observed for count, _, observed, _ in rows) / settled if settled else 0.0
    return CalibrationInfo(
        count=settled,
        brier=sum(squares for *_, squares in rows) / settled if settled else None,
        brier_of_base_rate=rate * (1 - rate) if settled else None,
        curve=tuple(
            ReliabilityBin(count=count, predicted=predicted, observed=observed)
            for count, predicted, observed, _ in rows
        ),
    )


async def bets(db: aiosqlite.Connection, request: GetBetsRequest) -> GetBetsReply:
    """A page of bets, the newest first. Raises InvalidRequest for an invalid time or cursor."""
    conditions, values = _conditions(request)
    rows = await db.execute_fetchall(
        f"SELECT {_BET} FROM bets WHERE {' AND '.join(conditions)} ORDER BY made_seq DESC LIMIT ?",
        (*values, request.limit + 1),
    )
    every = [_bet(row) for row in rows]
    kept = as_many_as_fit(every[: request.limit])
    return GetBetsReply(bets=kept, next_cursor=str(kept[-1].made_seq) if len(every) > len(kept) else None)


def _conditions(request: GetBetsRequest) -> tuple[list[str], list[object]]:
    conditions, values = ["TRUE"], []
    wanted: tuple[tuple[str, object], ...] = (
        ("made_at >= ?", None if request.since is None else to_sql(parse_time(request.since, "since"))),
        ("made_at < ?", None if request.until is None else to_sql(parse_time(request.until, "until"))),
        ("model_id = ?", request.model_id),
        ("made_seq < ?", None if request.cursor is None else _seq(request.cursor)),
    )
    for condition, value in wanted:
        if value is not None:
            conditions.append(condition)
            values.append(value)
    if request.outcome == "open":
        conditions.append("outcome IS NULL")
    elif request.outcome is not None:
        conditions.append("outcome = ?")
        values.append(request.outcome)
    return conditions, values


def _seq(cursor: str) -> int:
    if cursor.isascii() and cursor.isdigit() and int(cursor) <= _MAX_SEQ:
        return int(cursor)
    raise InvalidRequest(f"field 'cursor': {cursor[:40]!r} is none: send the next_cursor of the page before")


def _bet(row: Sequence[Any]) -> Bet:
    seq, model_id, node, made_at, chance, saves, costs, size, settled_at, settled_seq, *end = row
    outcome, reason, detail, saved, byte_seconds = end
    return Bet(
        model_id=model_id,
        node=node,
        made_at=rfc3339(from_sql(made_at)),
        made_seq=seq,
        chance=chance,
        saves_seconds=saves,
        costs_seconds=costs,
        bytes=size,
        settled_at=None if settled_at is None else rfc3339(from_sql(settled_at)),
        settled_seq=settled_seq,
        outcome=outcome,
        reason=reason,
        detail=detail,
        saved_seconds=saved,
        byte_seconds=byte_seconds,
    )
