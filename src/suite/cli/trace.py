"""``suite trace``."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
import click

from suite.cli.options import Target, fleet_command

if TYPE_CHECKING:
    from suite.cli.trace_tree import Line
    from suite.client import Client
    from suite.messages.envelope import Recorded
    from suite.telemetry.span_store import KeptSpan, SpanStore

LEAST_CHARACTERS: Final = 6
"""Of the beginning of a trace's id."""
_OF_ANSWERS: Final = re.compile(r"^(chatcmpl-|cmpl-|resp_|msg_)")
"""What the gateway writes before the id of a generation, as the APIs of others want it."""
_LATE: Final = timedelta(seconds=5)
"""So long after its last span events are looked for."""
_NANOSECONDS: Final = 1_000_000_000


class Found(NamedTuple):
    """What is known of a trace."""

    trace_id: str
    spans: Sequence[KeptSpan]
    linked: Sequence[KeptSpan]
    events: Sequence[Recorded]
    warning: str | None


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
    """Draw the trace ID as a tree, from the log and from the spans that this machine keeps.

    ID is that of the trace or its beginning, of a generation (as an answer has it) or a request, or the
    sequence of an event.
    Without ID: the newest traces, without those that follow from others and are drawn with them. Spans are
    kept while the setting `trace` is not off, in the data directory; without them only the events of the log
    are shown. With a URL, --data-dir says whose spans they are to be.

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


async def _find(target: Target, store: SpanStore | None, id: str, newest: int) -> Found:
    """Find a trace. Raises TraceNotFound, or what a log that cannot be read raises if no span is kept."""
    from suite.errors import SuiteError, TraceNotFound

    id = _OF_ANSWERS.sub("", id.strip().lower())
    trace_id = _kept_trace(store, id)
    spans, linked = _spans(store, trace_id)
    events: list[Recorded] = []
    warning: str | None = None
    if store is None:
        warning = "these are only the events: --data-dir names the directory of the node with the spans"
    try:
        async with target.connect() as client:
            if trace_id is None:
                trace_id = await _logged_trace(client, id, newest)
                spans, linked = _spans(store, trace_id)
            if trace_id is not None:
                events = [event async for event in _events(client, trace_id, spans, newest)]
    except SuiteError as error:
        if not spans:
            raise
        warning = f"these are only the spans, as the log cannot be read: {error.message}"
    if trace_id is None or not (spans or events):
        raise TraceNotFound(
            f"no trace {id!r}: neither a span that is kept here nor the newest {newest:,} events have it; "
            "`suite trace` lists the traces that are kept"
        )
    return Found(trace_id, spans, linked, events, warning)


def _kept_trace(store: SpanStore | None, id: str) -> str | None:
    """The trace that an id means, as far as spans are kept. Raises UsageError if it means several."""
    if re.fullmatch(r"[0-9a-f]{32}", id):
        return id
    if re.fullmatch(rf"[0-9a-f]{{{LEAST_CHARACTERS},31}}", id):
        traces = () if store is None else store.traces()
        begun = {span.trace_id for span in traces if span.trace_id.startswith(id)}
        if len(begun) > 1:
            raise click.UsageError(f"{len(begun)} traces begin with {id}: type more of it")
        if begun:
            return begun.pop()
    if len(id) < LEAST_CHARACTERS and not id.isdecimal():
        raise click.UsageError(f"type at least {LEAST_CHARACTERS} characters of the trace's id")
    return None if store is None else store.trace_with(id)


def _spans(store: SpanStore | None, trace_id: str | None) -> tuple[list[KeptSpan], list[KeptSpan]]:
    """The spans of a trace, and those that are linked to it, as far as they are kept."""
    return ([], []) if store is None or trace_id is None else store.trace(trace_id)


async def _logged_trace(client: Client, id: str, newest: int) -> str | None:
    """The trace of the event with this sequence or id, or of what it was appended for.

    Raises TraceNotFound for an event of none.
    """
    from suite.errors import TraceNotFound
    from suite.telemetry import ids_of

    last = await client.last_seq()
    is_seq = id.isdecimal() and 0 < int(id) <= last
    async with aclosing(client.events(after=int(id) - 1 if is_seq else max(0, last - newest))) as events:
        async for event in events:
            if is_seq or id in (event.correlation_id, event.id):
                if (ids := ids_of(event.traceparent)) is None:
                    raise TraceNotFound(
                        f"event {event.seq} belongs to no trace: tracing was off, and its caller had none"
                    )
                return ids.trace_id
    return None


async def _events(
    client: Client, trace_id: str, spans: Sequence[KeptSpan], newest: int
) -> AsyncIterator[Recorded]:
    """The events of a trace: where its spans say that they are, or else among the newest."""
    from suite.telemetry import ids_of

    numbers = [span.attributes["suite.event.seq"] for span in spans if "suite.event.seq" in span.attributes]
    after = min(numbers) - 1 if numbers else max(0, await client.last_seq() - newest)
    until = _time(max(span.end_ns for span in spans)) + _LATE if numbers else None
    async with aclosing(client.events(after=after)) as events:
        async for event in events:
            if until is not None and event.time > until:
                return
            ids = ids_of(event.traceparent)
            if ids is not None and ids.trace_id == trace_id:
                yield event


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


def _print(found: Found) -> None:
    from suite.cli.output import folded, headline, local_time
    from suite.cli.trace_tree import bar, lines

    tree = lines(found.spans, found.linked, found.events)
    whole_ms = max((line.start_ms + (line.duration_ms or 0.0) for line in tree), default=0.0)
    began = min([_time(span.start_ns) for span in found.spans] or [event.time for event in found.events])
    if found.warning is not None:
        click.echo(f"warning: {found.warning}", err=True)
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


def _print_json(found: Found) -> None:
    from suite.cli.events import document
    from suite.cli.output import json_line

    if found.warning is not None:
        click.echo(f"warning: {found.warning}", err=True)
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
