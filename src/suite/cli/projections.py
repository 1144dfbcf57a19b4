"""``suite errors``, ``suite fleet``, and ``suite rebuild`` for the read models behind these and others."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypedDict

import click

from suite.cli.completion import model_ids
from suite.cli.model_ids import about_model
from suite.cli.nodes import named, tell_missing
from suite.cli.options import Target, client_command, limit_option, window_options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from suite.client import Client
    from suite.client.records import ProjectionName
    from suite.messages.actions.projections import (
        ErrorEntry,
        ErrorGroup,
        FleetFile,
        FleetModel,
        GetErrorGroupsReply,
        GetErrorsReply,
    )
    from suite.messages.events import Severity

NAMES: tuple[ProjectionName, ...] = ("catalogue", "usage", "evaluation", "errors", "history")
SEVERITIES = ("info", "warning", "error", "critical")


@click.command()
@click.option("--severity", type=click.Choice(SEVERITIES), help="Only errors of this severity.")
@click.option("--model", shell_complete=model_ids, help="Only of this model.")
@click.option("--type", "error_type", help="Only of this type, such as load_failed.")
@click.option("--grouped", is_flag=True, help="Count them by type, model and node.")
@window_options
@limit_option()
@client_command
def errors(
    target: Target,
    severity: Severity | None,
    model: str | None,
    error_type: str | None,
    grouped: bool,
    since: str | None,
    until: str | None,
    limit: int,
) -> None:
    """List errors, newest first: reported errors, failed loads, crashes, lost nodes.

    With --grouped, show how many there are of each type, about which model, on which node, and when the first
    and the last of them came.

    \b
    Examples:
      suite errors --since 1d
      suite errors --grouped
      suite errors --severity critical --json
    """
    wanted: Wanted = {
        "severity": severity,
        "error_type": error_type,
        "since": since,
        "until": until,
        "limit": limit,
    }
    (_group_errors if grouped else _list_errors)(target, model, wanted)


class Wanted(TypedDict):
    """Which errors are asked for."""

    severity: Severity | None
    error_type: str | None
    since: str | None
    until: str | None
    limit: int


def _list_errors(target: Target, model: str | None, wanted: Wanted) -> None:
    from suite.cli.output import json_line, more

    async def work(client: Client) -> GetErrorsReply:
        ask = partial(client.get_errors, **wanted)
        return await about_model(
            client, model, lambda id: ask(model_id=id), is_empty=lambda reply: not reply.errors
        )

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    elif reply.errors:
        _show_errors(reply.errors)
        more(reply.next_cursor)
    else:
        click.echo("nothing went wrong")


def _group_errors(target: Target, model: str | None, wanted: Wanted) -> None:
    from suite.cli.output import json_line, more

    async def work(client: Client) -> GetErrorGroupsReply:
        ask = partial(client.get_error_groups, **wanted)
        return await about_model(
            client, model, lambda id: ask(model_id=id), is_empty=lambda reply: not reply.groups
        )

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    elif reply.groups:
        _show_groups(reply.groups)
        more(reply.next_cursor)
    else:
        click.echo("nothing went wrong")


def _show_groups(groups: Iterable[ErrorGroup]) -> None:
    from suite.cli.output import local_time, short, table

    rows = [
        (
            f"{each.count:,}",
            each.error_type,
            each.model_id or "",
            each.node,
            local_time(each.first_seen),
            local_time(each.last_seen),
            short(each.message, 400),
        )
        for each in groups
    ]
    table(["errors>", "error", "model", "node", "first", "last", "the last one's message"], rows)


def _show_errors(errors: Iterable[ErrorEntry]) -> None:
    from suite.cli.output import local_time, short, table

    rows = [
        (
            str(each.seq),
            local_time(each.timestamp),
            each.severity,
            each.error_type,
            each.node,
            each.model_id or "",
            short(_counted(each), 400),
        )
        for each in errors
    ]
    table(["event>", "time", "severity", "error", "node", "model", "message"], rows)


def _counted(error: ErrorEntry) -> str:
    return error.message if error.count == 1 else f"{error.count:,} times: {error.message}"


@click.command()
@client_command
def fleet(target: Target) -> None:
    """Show which models are on which nodes, including nodes that are down, and statistics of their loads.

    \b
    Examples:
      suite fleet
      suite fleet --json | jq '.models[] | {model_id, loaded_on}'
    """
    from suite.cli.output import json_line

    reply = target.run(lambda client: client.get_fleet())
    if target.as_json:
        json_line(reply)
    elif reply.models:
        _show_fleet(reply.models)
    else:
        click.echo("no models are registered: `suite models` shows those that nodes can load")


def _show_fleet(models: Iterable[FleetModel]) -> None:
    from suite.cli.output import duration, table
    from suite.units import size

    rows = []
    for model in models:
        nodes = ", ".join(map(_node, model.files))
        file = model.files[0] if model.files else None
        rows.append(
            (
                model.model_id,
                nodes,
                ", ".join(model.loaded_on),
                file.quantization if file else "",
                size(file.file_bytes) if file else "",
                f"{model.loads:,}",
                f"{model.load_failures:,}",
                f"{model.crashes:,}",
                duration(model.mean_load_ms) if model.mean_load_ms is not None else "",
            )
        )
    columns = ["model", "nodes", "loaded on", "quant", "file>", "loads>", "failed>", "crashes>", "loads in>"]
    table(columns, rows)


def _node(file: FleetFile) -> str:
    if not file.node_up:
        return f"{file.node} (down)"
    return f"{file.node} (draining)" if file.node_draining else file.node


@click.command()
@click.argument("name", type=click.Choice(NAMES), required=False)
@click.option("--force", is_flag=True, help="Also if the log has lost events that the read model has.")
@client_command
def rebuild(target: Target, name: ProjectionName | None, force: bool) -> None:
    """Rebuild the read model NAME from the log, or all of them one after the other.

    The current read model answers queries until the new one is complete. If the log has lost events that are
    in it, it stays, unless --force is given; its file is then kept as
    `usage.lost-events-20261128T101500.db` or the like.

    \b
    Examples:
      suite rebuild usage
      suite rebuild --json
    """
    from suite.cli.output import Bar, duration, json_line
    from suite.explanation.words import counted

    async def work(client: Client) -> None:
        for each in (name,) if name else NAMES:
            with Bar(f"rebuilding {each}", shown=not target.as_json) as bar:
                reply = await client.rebuild_projection(each, force=force, on_progress=bar.advance)
            if target.as_json:
                json_line(reply)
            else:
                tell_missing(reply)
                took = duration(reply.seconds * 1000)
                where = (
                    f" on {named([each.node for each in reply.rebuilt])}" if len(reply.rebuilt) > 1 else ""
                )
                events = counted(reply.events, "event")
                click.echo(f"{reply.name}: {events} in {took}{where}, up to event {reply.seq}")

    target.run(work)
