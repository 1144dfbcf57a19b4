"""``suite explain``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from suite.cli.completion import model_ids
from suite.cli.model_ids import for_model
from suite.cli.options import Target, client_command, time_of

if TYPE_CHECKING:
    from suite.client import Client
    from suite.messages.actions.explanation import ExplainReply

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_INDENT = 2


@click.command()
@click.argument("model", shell_complete=model_ids, required=False)
@click.option(
    "--seq",
    type=click.IntRange(min=1),
    help="Only what this event decided; `suite events` lists them.",
)
@click.option(
    "--at",
    callback=time_of,
    help="As it was at this time, or this long ago (10m, 2h, 1d).  [default: now]",
)
@click.option(
    "--limit",
    type=click.IntRange(0, 100),
    default=10,
    show_default=True,
    help="How many events of the model to tell at most.",
)
@client_command
def explain(target: Target, model: str | None, seq: int | None, at: str | None, limit: int) -> None:
    """Say why MODEL is loaded, waits or is not loaded, and what happened to it, from the log alone.

    Each decision says who could have left, who did, and what would have changed it. Without MODEL: all models
    that are in memory or waited for, and nodes that are being drained. A time without an offset is local.

    \b
    Examples:
      suite explain
      suite explain smollm2
      suite explain smollm2 --limit 50 --json
    """
    from suite.cli.output import json_line

    if seq is not None and (model is not None or at is not None):
        raise click.UsageError("--seq explains one event: leave out MODEL and --at")

    async def work(client: Client) -> ExplainReply:
        if model is None:
            return await client.explain(seq=seq, at=at)
        return await for_model(client, model, lambda id: client.explain(id, at=at, limit=limit))

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    else:
        _show(reply, of_event=seq is not None)


def _show(reply: ExplainReply, *, of_event: bool) -> None:
    from suite.cli.output import folded

    for warning in reply.warnings:
        click.echo(f"warning: {warning}", err=True)
    for line, indent in explained(reply, of_event=of_event):
        folded(line, indent=indent)


def explained(reply: ExplainReply, *, of_event: bool = False) -> Iterator[tuple[str, int]]:
    """The lines of an explanation; each with the indentation of what of it stands on a next line."""
    from suite.cli.output import local_time

    for sentences in [each.sentences for each in reply.models] + [each.sentences for each in reply.nodes]:
        yield from _said(sentences)
    if not reply.models and not of_event:
        yield f"nothing was in memory or waited for at {local_time(reply.at)}, as far as the log says", 0
    for event in reply.events:
        first, *others = event.sentences or (event.type,)
        if not (of_event and event is reply.events[0]):
            yield "", 0
        yield from _said((f"{local_time(event.timestamp)}  event {event.seq}  {first}", *others))


def _said(sentences: Iterable[str]) -> Iterator[tuple[str, int]]:
    first, *others = sentences
    yield _local(first), _INDENT
    for sentence in others:
        yield f"{' ' * _INDENT}{_local(sentence)}", 2 * _INDENT


def _local(sentence: str) -> str:
    """A sentence with its times in the local time zone."""
    from suite.cli.output import local_time

    return _TIME.sub(lambda found: local_time(found[0]), sentence)
