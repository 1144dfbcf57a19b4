"""``suite import-legacy``."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, tzinfo
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import anyio
import anyio.to_thread
import click
import msgspec

from suite.cli.exit import REFUSED
from suite.cli.options import Target, client_command
from suite.errors import (
    Conflict,
    InvalidJson,
    InvalidRequest,
    NodeLost,
    Overloaded,
    ReadModelBehind,
    RequestTimeout,
    SuiteError,
    TooLarge,
    UnknownOutcome,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from suite.cli.output import Bar
    from suite.client import Client
    from suite.legacy.database import Entry, LogRequest, OldDatabase

IN_FLIGHT: Final = 64
"""The most metrics that are sent at once, as many as the service handles. Evaluations are sent one after the
other, because trust in a model depends on their order."""
BATCH_ROWS: Final = 500
"""Rows that are read from the database at once."""
ATTEMPTS: Final = 5
PAUSE_SECONDS: Final = 1.0
MAX_LISTED_ROWS: Final = 10
"""The most refused rows that are shown, or listed in JSON."""

_ROW_ERRORS: Final = (InvalidRequest, InvalidJson, Conflict, TooLarge)
_RETRIED_ERRORS: Final = (Overloaded, ReadModelBehind, RequestTimeout, UnknownOutcome, NodeLost)
"""Errors after which a row is sent again; its id prevents a duplicate."""


class RefusedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row that was refused, and so is not in the log."""

    table: str
    row: int
    """The rowid."""
    id: str
    code: str
    message: str


class TableResult(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of rows of a table that were added, present or refused."""

    table: str
    read: int
    added: int
    present: int
    """Rows that were in the log already, from an earlier import."""
    refused: int


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an import."""

    database: str
    tables: tuple[TableResult, ...]
    refused: tuple[RefusedRow, ...]
    """The first `MAX_LISTED_ROWS` of them."""


def _zone(_: click.Context, __: click.Parameter, value: str) -> tzinfo:
    if value == "UTC":  # available even where no time zones are installed
        return UTC
    try:
        return ZoneInfo(value)
    except (LookupError, ValueError, OSError):
        raise click.BadParameter(f"{value!r} is not a time zone such as UTC or Europe/Berlin") from None


@click.command()
@click.argument("database", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--timezone",
    default="UTC",
    show_default=True,
    callback=_zone,
    help="Time zone of times in the database that have none.",
)
@client_command
def import_legacy(target: Target, database: Path, timezone: tzinfo) -> int:
    """Import the metrics and evaluations of an older service's DATABASE into the log of a running service.

    Rows keep their ids, so running this again imports no row twice. The database is only read, and the older
    service may go on writing to it. Refused rows are shown with the reason, and the exit code is then 1.
    Requires the role operator.

    \b
    Examples:
      suite import-legacy data/model_evaluation.db
      suite import-legacy old.db --timezone Europe/Berlin --json
    """
    from suite.cli.output import Bar, json_line
    from suite.legacy.database import OldDatabase

    with (
        OldDatabase.open(database, zone=timezone) as old,
        Bar(f"importing {database.name}", shown=not target.as_json) as bar,
    ):

        async def work(client: Client) -> ImportReport:
            importing = _Import(client, old, bar, end=await client.last_seq())
            await importing.run()
            return importing.report(str(database))

        report = target.run(work)
    if target.as_json:
        json_line(report)
    else:
        _show(report)
    return REFUSED if any(table.refused for table in report.tables) else 0


class _Import:
    """Sends the rows, and counts the results."""

    def __init__(self, client: Client, old: OldDatabase, bar: Bar, *, end: int) -> None:
        self._client = client
        self._old = old
        self._bar = bar
        self._end = end
        """The last sequence of the log at the start; a row whose event is not later was present already."""
        self._counts: dict[str, Counter[str]] = {table: Counter() for table in old.rows}
        self._refused: list[RefusedRow] = []
        self._failure: SuiteError | None = None

    async def run(self) -> None:
        """Import all rows. Raises the error that prevents the service from accepting more."""
        from suite.legacy.database import METRICS

        for table in self._old.rows:
            await self._import_table(table, in_flight=IN_FLIGHT if table == METRICS else 1)

    async def _import_table(self, table: str, *, in_flight: int) -> None:
        send, receive = anyio.create_memory_object_stream["Entry"]()
        async with anyio.create_task_group() as tasks:
            for _ in range(in_flight):
                tasks.start_soon(self._work, receive.clone(), tasks.cancel_scope)
            receive.close()
            await self._feed(table, send, tasks.cancel_scope)
        if self._failure is not None:
            raise self._failure

    def report(self, database: str) -> ImportReport:
        """The result so far."""
        return ImportReport(
            database=database,
            tables=tuple(
                TableResult(
                    table=table,
                    read=counts.total(),
                    added=counts["added"],
                    present=counts["present"],
                    refused=counts["refused"],
                )
                for table, counts in self._counts.items()
            ),
            refused=tuple(self._refused),
        )

    async def _feed(self, table: str, send: MemoryObjectSendStream[Entry], scope: anyio.CancelScope) -> None:
        entries = self._old.entries(table)
        async with send:
            try:
                while some := await anyio.to_thread.run_sync(_next_batch, entries):
                    for entry in some:
                        await send.send(entry)
            except SuiteError as error:
                self._fail(error, scope)

    async def _work(self, receive: MemoryObjectReceiveStream[Entry], scope: anyio.CancelScope) -> None:
        async with receive:
            async for entry in receive:
                try:
                    self._count(entry, await self._import_row(entry))
                except SuiteError as error:
                    self._fail(error, scope)

    def _fail(self, error: SuiteError, scope: anyio.CancelScope) -> None:
        self._failure = self._failure or error
        scope.cancel()

    async def _import_row(self, entry: Entry) -> str:
        """Import a row, or record why it was refused. Returns which of the counts it belongs to."""
        if entry.request is None:
            return self._refuse(entry, InvalidRequest(entry.problem))
        try:
            seq = await self._log_with_retries(entry.request)
        except _ROW_ERRORS as error:
            return self._refuse(entry, error)
        return "added" if seq > self._end else "present"

    async def _log_with_retries(self, request: LogRequest) -> int:
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._log(request)
            except _RETRIED_ERRORS:
                await anyio.sleep(PAUSE_SECONDS)
        return await self._log(request)

    async def _log(self, request: LogRequest) -> int:
        from suite.messages.actions.evaluation import LogPerformanceMetricRequest

        fields = msgspec.structs.asdict(request)
        del fields["node"]  # any node may store it
        if isinstance(request, LogPerformanceMetricRequest):
            return (await self._client.log_performance_metric(**fields)).seq
        return (await self._client.log_model_evaluation(**fields)).seq

    def _refuse(self, entry: Entry, error: SuiteError) -> str:
        if len(self._refused) < MAX_LISTED_ROWS:
            self._refused.append(
                RefusedRow(
                    table=entry.table,
                    row=entry.row,
                    id=entry.entry_id,
                    code=error.code,
                    message=error.message,
                )
            )
        return "refused"

    def _count(self, entry: Entry, outcome: str) -> None:
        self._counts[entry.table][outcome] += 1
        done = sum(counts.total() for counts in self._counts.values())
        self._bar.advance(min(1.0, done / max(1, sum(self._old.rows.values()))))


def _next_batch(entries: Iterator[Entry]) -> list[Entry]:
    return list(islice(entries, BATCH_ROWS))


def _show(report: ImportReport) -> None:
    from suite.cli.output import printable, table

    rows = [
        (each.table, f"{each.read:,}", f"{each.added:,}", f"{each.present:,}", f"{each.refused:,}")
        for each in report.tables
    ]
    table(["table", "rows>", "added>", "there already>", "refused>"], rows)
    for row in report.refused:
        line = f"{row.table} row {row.row} ({printable(row.id)}): {row.code}: {printable(row.message)}"
        click.echo(f"refused: {line}", err=True)
    if (unlisted := sum(each.refused for each in report.tables) - len(report.refused)) > 0:
        click.echo(f"refused: {unlisted:,} more", err=True)
