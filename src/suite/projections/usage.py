"""The read model of usage: one row per generation, and per use that a client recorded. Figures only.

Requests over time are in `requests.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import aiosqlite

from suite.messages.actions.usage import UsageCount, UsageKey, UsageReply, UsageRequest
from suite.messages.envelope import Recorded
from suite.messages.events import Generated, UsageRecorded
from suite.messages.times import from_sql, parse_time, rfc3339, to_sql
from suite.projections import requests
from suite.projections.latencies import bin_of
from suite.projections.projection import EXPIRE_ROWS, Projection
from suite.projections.reply_size import as_many_as_fit, left_out

GENERATION = "generation"
"""The usage type of generations that the service ran itself."""

Row: TypeAlias = tuple[object, ...]

_KEYS: dict[UsageKey, tuple[str, str]] = {
    "name": ("name", "coalesce(variant, model_id)"),
    "model": ("model_id", "model_id"),
    "hour": ("start", "substr(at, 1, 13) || ':00:00'"),
    "day": ("start", "substr(at, 1, 10) || ' 00:00:00'"),
    "conversation": ("conversation_id", "conversation_id"),
    "usage_type": ("usage_type", "usage_type"),
    "requester": ("requester", "requester"),
}
"""For each key, the field of the reply and the SQL expression."""


class UsageProjection(Projection):
    """Folds uses, refusals and loads. Neither the events nor the rows contain a prompt or an answer."""

    name: ClassVar[str] = "usage"
    version: ClassVar[int] = 7
    aggregates: ClassVar[tuple[str, ...]] = ("usage", "admission", "instance")
    schema: ClassVar[str] = f"""{requests.SCHEMA}
        CREATE TABLE usage (
            seq INTEGER PRIMARY KEY,
            usage_type TEXT NOT NULL,
            model_id TEXT NOT NULL,
            conversation_id TEXT,
            at TEXT NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            reused_tokens INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            generation_ms REAL NOT NULL,
            outcome TEXT,
            requester TEXT NOT NULL,
            is_request INTEGER NOT NULL,
            first_us INTEGER,
            first_bin INTEGER,
            total_us INTEGER,
            total_bin INTEGER,
            expires INTEGER,
            version INTEGER,
            variant TEXT,
            variant_version INTEGER
        );
        CREATE INDEX usage_by_time ON usage (at, model_id);
        CREATE INDEX usage_by_model ON usage (model_id, at);
        CREATE INDEX usage_by_version ON usage (model_id, version, at);
        CREATE INDEX usage_by_variant ON usage (variant, at) WHERE variant IS NOT NULL;
        CREATE INDEX usage_by_variant_version ON usage (variant, variant_version, at)
            WHERE variant IS NOT NULL;
        CREATE INDEX usage_by_conversation ON usage (conversation_id) WHERE conversation_id IS NOT NULL;
        CREATE INDEX usage_by_expiry ON usage (expires) WHERE expires IS NOT NULL;
    """

    async def fold(self, db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
        """Insert one row per use, and count requests over time."""
        rows = [row for recorded in events if (row := _row(recorded)) is not None]
        if rows:
            await db.executemany(f"INSERT INTO usage VALUES ({', '.join('?' * len(rows[0]))})", rows)
            await requests.count(db, [use for recorded in events if (use := _use(recorded)) is not None])
        await requests.fold_misses(db, events)

    async def expire(self, db: aiosqlite.Connection, now: datetime) -> bool:
        """Remove expired rows, also from the sums. Returns whether there may be more."""
        expired = await db.execute_fetchall(
            "SELECT seq, is_request, model_id, at, outcome, prompt_tokens, reused_tokens, completion_tokens, "
            "first_us, total_us FROM usage WHERE expires <= ? LIMIT ?",
            (int(now.timestamp()), EXPIRE_ROWS),
        )
        rows = list(expired)
        if rows:
            uses = [_expired_use(*row) for _, is_request, *row in rows if is_request]
            await requests.count(db, uses, sign=-1)
            await db.executemany("DELETE FROM usage WHERE seq = ?", [(row[0],) for row in rows])
        more_misses = await requests.expire_misses(db, now)
        return len(rows) == EXPIRE_ROWS or more_misses


class UsageHistory:
    """The usage history that prediction policies read, over one connection."""

    def __init__(self, db: aiosqlite.Connection) -> None:
        self._db = db

    async def counts(self, since: datetime, limit: int) -> list[tuple[str, int]]:
        """The models used since a time, with their number of uses: the most used first, then by id."""
        # The window is short and the table is long, so the index by time is better than the one by model.
        rows = await self._db.execute_fetchall(
            "SELECT model_id, count(*) AS uses FROM usage INDEXED BY usage_by_time WHERE at >= ? "
            "GROUP BY model_id ORDER BY uses DESC, model_id LIMIT ?",
            (to_sql(since), limit),
        )
        return [(model_id, uses) for model_id, uses in rows]


async def usage(db: aiosqlite.Connection, request: UsageRequest) -> UsageReply:
    """Count uses, grouped by the requested keys; hour wins if both hour and day are requested.

    A name brings the model that it stands for, which may be another one in time. A warning says how many
    groups did not fit into the reply. Raises InvalidRequest for an invalid time.
    """
    asked = {*request.group_by, *(["model"] if "name" in request.group_by else [])}
    keys = [key for key in _KEYS if key in asked]
    if "hour" in keys and "day" in keys:
        keys.remove("day")
    fields = [_KEYS[key][0] for key in keys]
    conditions, values = _conditions(request)
    columns = "".join(f"{_KEYS[key][1]} AS key_{_KEYS[key][0]}, " for key in keys)
    names = [f"key_{field}" for field in fields]
    order = [*(["key_start DESC"] if "start" in fields else []), "uses DESC", *names]
    rows = await db.execute_fetchall(
        f"SELECT {columns}count(*) AS uses, sum(prompt_tokens), sum(reused_tokens), sum(completion_tokens), "
        f"sum(generation_ms), max(at) FROM usage {conditions} "
        f"GROUP BY {', '.join(names) or 'NULL'} ORDER BY {', '.join(order)} LIMIT ?",
        (*values, request.limit),
    )
    counts = [_count(fields, row) for row in rows]
    kept = as_many_as_fit(counts)
    return UsageReply(usage=kept, warnings=left_out(counts, kept, "groups after these"))


async def last_used(
    db: aiosqlite.Connection, model_ids: Collection[str] | None = None
) -> dict[str, datetime]:
    """When each of these models, or each of all models, was last used. Unused models are left out.

    Names that stand for a model with adapters are told too, beside their models.
    """
    variants = await _last_used(db, "variant", model_ids)
    return variants | await _last_used(db, "model_id", model_ids)


async def _last_used(
    db: aiosqlite.Connection, column: Literal["model_id", "variant"], asked: Collection[str] | None
) -> dict[str, datetime]:
    if asked is None:
        # Skips from id to id along the index, so the number of rows per model does not matter.
        ids = (
            f"RECURSIVE asked(id) AS (SELECT min({column}) FROM usage WHERE {column} IS NOT NULL UNION ALL "
            f"SELECT (SELECT min({column}) FROM usage WHERE {column} > asked.id) FROM asked "
            "WHERE asked.id IS NOT NULL)"
        )
    elif asked:
        ids = f"asked(id) AS (VALUES {', '.join(['(?)'] * len(asked))})"
    else:
        return {}
    rows = await db.execute_fetchall(
        f"WITH {ids} SELECT id, (SELECT max(at) FROM usage WHERE usage.{column} = asked.id) AS at FROM asked",
        tuple(asked or ()),
    )
    return {id: from_sql(at) for id, at in rows if at is not None}


class VersionUse(NamedTuple):
    """How often a version of a model was used, and when last."""

    uses: int
    last: datetime


async def uses_by_version(
    db: aiosqlite.Connection, model_id: str | None
) -> dict[tuple[str, int | None], VersionUse]:
    """The uses of each version of a model, or of all models; None stands for a version that is not known.

    A use of a name that stands for a model with adapters is one of that name and of the model.
    """
    values = () if model_id is None else (model_id,)
    models = await db.execute_fetchall(
        "SELECT model_id, version, count(*), max(at) FROM usage INDEXED BY usage_by_version "
        f"{'WHERE model_id = ? ' if values else ''}GROUP BY model_id, version",
        values,
    )
    variants = await db.execute_fetchall(
        "SELECT variant, variant_version, count(*), max(at) FROM usage INDEXED BY usage_by_variant_version "
        f"WHERE variant IS NOT NULL {'AND variant = ? ' if values else ''}GROUP BY variant, variant_version",
        values,
    )
    return {
        (model, version): VersionUse(count, from_sql(at))
        for model, version, count, at in (*models, *variants)
    }


async def answered(db: aiosqlite.Connection, model_id: str, version: int, *, since: datetime) -> int:
    """How many requests a version has answered since a time, of a model or of a name for one with adapters.

    Those that failed or were ended do not count.
    """
    badly = requests.FAILED + requests.CANCELLED
    ended_well = f"at >= ?3 AND is_request AND (outcome IS NULL OR outcome NOT IN {badly})"
    ((count,),) = await db.execute_fetchall(
        "SELECT (SELECT count(*) FROM usage INDEXED BY usage_by_version "
        f"WHERE model_id = ?1 AND version = ?2 AND variant IS NULL AND {ended_well}) + "
        "(SELECT count(*) FROM usage INDEXED BY usage_by_variant_version "
        f"WHERE variant = ?1 AND variant_version = ?2 AND {ended_well})",
        (model_id, version, to_sql(since)),
    )
    return int(count)


def _row(recorded: Recorded) -> Row | None:
    figures: Row
    took = requests.Times()
    match recorded.data:
        case Generated() as fact:
            usage_type, is_request = GENERATION, True
            took = requests.times_of(fact)
            figures = (
                fact.prompt_tokens,
                fact.reused_tokens,
                fact.completion_tokens,
                fact.generation_ms,
                fact.outcome,
            )
        case UsageRecorded() as fact:
            usage_type, is_request = fact.usage_type, bool(fact.node)
            figures = (0, 0, 0, 0.0, None)
        case _:
            return None
    return (
        recorded.seq,
        usage_type,
        fact.model_id,
        fact.conversation_id,
        to_sql(recorded.time),
        *figures,
        fact.requester if isinstance(fact.requester, str) else "",
        is_request,
        *_with_bin(took.first_us),
        *_with_bin(took.total_us),
        None if recorded.expires is None else int(recorded.expires.timestamp()),
        fact.version or None,  # what is unset is false too
        *_variant(fact),
    )


def _variant(fact: Generated | UsageRecorded) -> tuple[str | None, int | None]:
    """The name of the model with adapters that was used, and its version."""
    if not isinstance(fact, Generated):
        return fact.variant or None, None
    return fact.variant or None, fact.variant_version or None


def _use(recorded: Recorded) -> requests.Use | None:
    """What an event adds to the requests over time; None if it is none to the service."""
    second = _second(recorded.time)
    match recorded.data:
        case Generated() as fact:
            return requests.Use(
                model_id=fact.model_id,
                second=second,
                outcome=fact.outcome,
                prompt_tokens=fact.prompt_tokens,
                reused_tokens=fact.reused_tokens,
                completion_tokens=fact.completion_tokens,
                times=requests.times_of(fact),
            )
        case UsageRecorded(node=node) as fact if node:
            return requests.Use(fact.model_id, second, None, 0, 0, 0, requests.Times())
        case _:
            return None


def _expired_use(
    model_id: str,
    at: str,
    outcome: str | None,
    prompt: int,
    reused: int,
    completion: int,
    first_us: int | None,
    total_us: int | None,
) -> requests.Use:
    times = requests.Times(first_us, total_us)
    return requests.Use(model_id, _second(from_sql(at)), outcome, prompt, reused, completion, times)


def _second(time: datetime) -> int:
    return int(time.timestamp() // 1)


def _with_bin(time_us: int | None) -> tuple[int | None, int | None]:
    return time_us, None if time_us is None else bin_of(time_us)


def _conditions(request: UsageRequest) -> tuple[str, list[str]]:
    parts: list[str] = []
    values: list[str] = []
    for condition, value in (
        ("(model_id = ? OR variant = ?)", request.model_id),
        ("conversation_id = ?", request.conversation_id),
        ("at >= ?", None if request.since is None else to_sql(parse_time(request.since, "since"))),
        ("at < ?", None if request.until is None else to_sql(parse_time(request.until, "until"))),
    ):
        if value is not None:
            parts.append(condition)
            values += [value] * condition.count("?")
    return f"WHERE {' AND '.join(parts)}" if parts else "", values


def _count(fields: Sequence[str], row: Sequence[Any]) -> UsageCount:
    keys = dict(zip(fields, row, strict=False))
    if "start" in keys:
        keys["start"] = rfc3339(from_sql(keys["start"]))
    uses, prompt_tokens, reused_tokens, completion_tokens, generation_ms, last_used_at = row[len(fields) :]
    return UsageCount(
        **keys,
        uses=uses,
        prompt_tokens=prompt_tokens,
        reused_tokens=reused_tokens,
        completion_tokens=completion_tokens,
        generation_ms=generation_ms,
        last_used_at=rfc3339(from_sql(last_used_at)),
    )
