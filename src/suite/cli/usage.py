"""``suite usage`` and ``suite record-usage``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from suite.cli.completion import model_ids
from suite.cli.model_ids import about_model, meant
from suite.cli.options import Target, client_command, limit_option, window_options

if TYPE_CHECKING:
    from suite.client import Client
    from suite.messages.actions.usage import RecordUsageReply, UsageCount, UsageKey, UsageReply

KEYS = ("name", "model", "hour", "day", "conversation", "usage_type", "requester")


@click.command()
@click.option(
    "--by",
    "group_by",
    type=click.Choice(KEYS),
    multiple=True,
    default=("name",),
    show_default=True,
    help="Group by this; may be repeated.",
)
@click.option(
    "--model",
    shell_complete=model_ids,
    help="Only this model with any adapters, or this name for one with adapters.",
)
@click.option("--conversation", help="Only this conversation.")
@window_options
@limit_option()
@client_command
def usage(
    target: Target,
    group_by: tuple[UsageKey, ...],
    model: str | None,
    conversation: str | None,
    since: str | None,
    until: str | None,
    limit: int,
) -> None:
    """Count how much the models were used: generations and recorded uses. Hours and days are in UTC.

    By `name`, a use of a name that stands for a model with adapters counts for that name; by `model`, for the
    model.

    \b
    Examples:
      suite usage
      suite usage --by model
      suite usage --by day --by model --since 7d
      suite usage --by requester --since 30d
      suite usage --model smollm2 --by hour --json
    """
    from suite.cli.output import json_line

    async def work(client: Client) -> UsageReply:
        ask = partial(
            client.usage,
            conversation_id=conversation,
            since=since,
            until=until,
            group_by=group_by,
            limit=limit,
        )
        return await about_model(
            client, model, lambda id: ask(model_id=id), is_empty=lambda reply: not reply.usage
        )

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    elif reply.usage:
        _show(group_by, reply.usage)
    else:
        click.echo("nothing was used: `suite generate` uses a model, `suite record-usage` records a use")


def _show(group_by: tuple[UsageKey, ...], usage: tuple[UsageCount, ...]) -> None:
    from suite.cli.output import duration, local_time, table

    columns = _columns(group_by, usage)
    names = {"model": "model_id", "conversation": "conversation_id"}
    rows = [
        (
            *(_cell(column, getattr(each, names.get(column, column))) for column in columns),
            f"{each.uses:,}",
            f"{each.prompt_tokens:,}",
            f"{each.reused_tokens:,}",
            f"{each.completion_tokens:,}",
            duration(each.generation_ms),
            local_time(each.last_used_at),
        )
        for each in usage
    ]
    figures = ("uses>", "prompt tokens>", "reused>", "generated>", "generating>", "last used")
    table([*(column.replace("_", " ") for column in columns), *figures], rows)


def _columns(group_by: tuple[UsageKey, ...], usage: tuple[UsageCount, ...]) -> list[str]:
    """The columns of keys: where all names are those of models, these alone."""
    named = ("name", "model") if any(each.name != each.model_id for each in usage) else ("model",)
    columns = (
        column
        for key in group_by
        for column in (named if key == "name" else ("start",) if key in ("hour", "day") else (key,))
    )
    return [*dict.fromkeys(columns)]


def _cell(column: str, value: str | None) -> str:
    if column == "start" and value is not None:
        return value[:16].replace("T", " ")
    return value or ""


@click.command()
@click.argument("model", shell_complete=model_ids)
@click.option("--type", "usage_type", default="inference", show_default=True, help="What it was used for.")
@click.option("--conversation", help="The conversation that it was used in.  [default: none]")
@client_command
def record_usage(target: Target, model: str, usage_type: str, conversation: str | None) -> None:
    """Record that MODEL was used elsewhere. The service need not know the model.

    \b
    Examples:
      suite record-usage SmolLM2-135M-Instruct.Q4_1
      suite record-usage whisper-large --type transcription --json
    """
    from suite.cli.output import json_line

    async def work(client: Client) -> RecordUsageReply:
        model_id = await meant(client, model)
        return await client.record_usage(model_id, usage_type, conversation_id=conversation)

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    else:
        click.echo(f"{reply.message} (event {reply.seq})")
