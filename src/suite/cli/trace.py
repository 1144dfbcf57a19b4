"""``suite trace``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import anyio
import click

from suite.cli.options import Target, fleet_command

if TYPE_CHECKING:
    from suite.cli.trace_tree import Line
    from suite.client.traces import Trace
    from suite.telemetry.span_store import SpanStore

_NANOSECONDS: Final = 1_000_000_000


@click.command()
@click.argument("id", required=False)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many traces to list."
)
@click.option(
    "--events",
    "newest",
    type=click.IntRange(0, 10_000_000),
    default=20_000,
    show_default=True,
    help="How many of the newest events to look through for a trace of which no span says where its are.",
)
@fleet_command
def trace(target: Target, id: str | None, limit: int, newest: int) -> None:
    """Draw the trace ID as a tree, from the log and from the spans that nodes keep.

    ID is that of the trace or its beginning, of a generation (as an answer has it) or a request, or the
    sequence of an event.
    Without ID: the newest traces that this machine keeps, without those that follow from others and are drawn
    with them. Spans are kept while the setting `trace` is not off, in the data directory; without them only
    the events of the log are shown. With a URL, --data-dir says whose traces are listed.

    \b
    Examples:
      suite trace
      suite trace --limit 5
      suite trace 1
      suite trace 1 --json
    """
    store = _store(target)
    if id is None:
        if store is None:
            raise click.UsageError("spans are in the data directory of a node: name it with --data-dir")
        _list(store, limit, as_json=target.as_json)
        return
    found = anyio.run(_find, target, store, id, newest)
    if target.as_json:
        _print_json(found)
    else:
        _print(found)


def _store(target: Target) -> SpanStore | None:
    """The spans of the service's node on this machine; None if it is not known which is its directory."""
    from suite.config import TRACES
    from suite.telemetry.span_store import SpanStore

    data_dir = target.data_dir or target.own_data_dir
    return None if data_dir is None else SpanStore(data_dir / TRACES, 0)


# --- finding ------------------------------------------------------------------------------------------------


async def _find(target: Target, store: SpanStore | None, id: str, newest: int) -> Trace:
    """Find a trace: on this machine and, as far as it can be reached, in the service.

    Raises TraceNotFound, and UsageError for an id that means several.
    """
    from suite.client.traces import find_trace, plain
    from suite.errors import InvalidRequest, SuiteError, TraceNotFound
    from suite.messages.actions.traces import LEAST_CHARACTERS

    id = plain(id)
    is_short = len(id) < LEAST_CHARACTERS
    if is_short and not id.isdecimal():
        raise click.UsageError(f"type at least {LEAST_CHARACTERS} characters of the trace's id")
    try:
        own = None if store is None or is_short else _kept(store, store.meant(id))
    except InvalidRequest as error:
        raise click.UsageError(error.message) from None
    try:
        async with target.connect() as client:
            found = await find_trace(client, id if own is None else own.trace_id, newest=newest)
    except TraceNotFound as error:
        if own is None:
            raise
        return own._replace(warnings=(error.message,))
    except SuiteError as error:
        if own is None:
            raise
        unread = f"these are only the spans, as the log cannot be read: {error.message}"
        return own._replace(warnings=(unread,))
    return found if store is None else _together(found, _kept(store, found.trace_id))


def _kept(store: SpanStore, trace_id: str | None) -> Trace | None:
    """What this machine keeps of a trace, prompts and answers included; None if it keeps nothing."""
    from suite.client.traces import Trace

    spans, linked = ([], []) if trace_id is None else store.trace(trace_id)
    return Trace(trace_id, spans, linked, ()) if trace_id is not None and spans else None


def _together(found: Trace, own: Trace | None) -> Trace:
    """What the service told and what this machine keeps: it may have more of a span."""
    if own is None:
        return found
    spans = {span.span_id: span for span in (*found.spans, *own.spans)}
    linked = {span.span_id: span for span in (*found.linked, *own.linked)}
    return found._replace(spans=list(spans.values()), linked=list(linked.values()))


# --- printing -----------------------------------------------------------------------------------------------


def _list(store: SpanStore, limit: int, *, as_json: bool) -> None:
    from suite.cli.output import json_line, local_time, table

    # What is linked to other traces, such as folds, is in the trees of these.
    traces = [span for span in store.traces() if not span.links][-limit:]
    if as_json:
        json_line(traces)
        return
    if not traces:
        click.echo("no traces are kept here: set `trace` to local, console or otlp", err=True)
        return
    rows = [
        [
            local_time(_time(span.start_ns).isoformat()),
            span.trace_id,
            f"{(span.end_ns - span.start_ns) / 1e6:,.1f}",
            span.process,
            span.name,
            span.error,
        ]
        for span in traces
    ]
    table(["time", "trace", "ms>", "process", "begins with", "error"], rows)


def _print(found: Trace) -> None:
    from suite.cli.output import folded, headline, local_time
    from suite.cli.trace_tree import bar, lines

    tree = lines(found.spans, found.linked, found.events)
    whole_ms = max((line.start_ms + (line.duration_ms or 0.0) for line in tree), default=0.0)
    began = min([_time(span.start_ns) for span in found.spans] or [event.time for event in found.events])
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    headline(f"trace {found.trace_id}, {local_time(began.isoformat())}, {whole_ms:,.1f} ms")
    names = max(len(line.name) for line in tree)
    processes = max(len(line.process) for line in tree)
    for line in tree:
        shown = (
            f"{line.name:<{names}}  {line.process:<{processes}}  {line.start_ms:>9,.1f}"
            f"  {_duration(line):>9}  {bar(line, whole_ms):<20}  {', '.join(line.notes)}"
        )
        folded(shown.rstrip(), indent=names + 2)


def _duration(line: Line) -> str:
    return "" if line.duration_ms is None else f"{line.duration_ms:,.1f}"


def _print_json(found: Trace) -> None:
    from suite.cli.events import document
    from suite.cli.output import json_line

    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    json_line(
        {
            "trace_id": found.trace_id,
            "spans": found.spans,
            "linked": found.linked,
            "events": [document(event) for event in found.events],
        }
    )


def _time(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / _NANOSECONDS, UTC)
