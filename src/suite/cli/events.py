"""``suite events``, and the format of an event on a line."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from suite.cli.completion import model_ids
from suite.cli.model_ids import about_model, meant
from suite.cli.options import Target, fleet_command, parsed_time

if TYPE_CHECKING:
    from suite.client import Client
    from suite.messages.envelope import Recorded


_LAST_SEQUENCE: Final = (1 << 63) - 1


def _since(_: click.Context, __: click.Parameter, value: str | None) -> int | datetime | None:
    """Parse ``--since``: the sequence of the first event, or the earliest time."""
    if value is None or not value.isdecimal():
        return None if value is None else parsed_time(value)
    if len(value) > len(str(_LAST_SEQUENCE)) or int(value) > _LAST_SEQUENCE:
        raise click.BadParameter(f"a sequence is at most {_LAST_SEQUENCE}")
    return int(value)


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Keep printing new events as they are appended.")
@click.option(
    "--since",
    callback=_since,
    help="Start at this sequence, this time, or this long ago (10m, 2h, 1d).  [default: 1]",
)
@click.option("--filter", "subject", help="Only these events: AGGREGATE[.ID][.FACT], with ids as they are.")
@click.option("--model", shell_complete=model_ids, help="Only events about this model.")
@fleet_command
def events(
    target: Target, follow: bool, since: int | datetime | None, subject: str | None, model: str | None
) -> None:
    """Show the events in the log, oldest first: sequence, time, subject and details of each.

    A filter is an aggregate (node, model, instance, admission, usage, prediction, metric, evaluation,
    benchmark, alias, key, breaker, error), its id, and a fact, as in usage.MODEL.generated. An instance has
    two ids, as an admission has: instance.NODE.MODEL.loaded. * stands for one whole id, and > for all that
    follows. With --json each event is one JSON line.

    \b
    Examples:
      suite events
      suite events --follow --since 10m
      suite events --model smollm2
      suite events --filter usage.SmolLM2-135M-Instruct.Q4_1.generated --json
      suite events --filter instance.loaded --since 1d
      suite events --filter alias.chat
    """
    if subject and model:
        raise click.UsageError("--filter and --model are both given: use one of them")

    async def show(client: Client, model_id: str | None) -> int:
        shown = 0
        after = max(since - 1, 0) if isinstance(since, int) else 0
        begun = not isinstance(since, datetime)
        async for event in client.events(subject, model_id=model_id, after=after, follow=follow):
            begun = begun or (isinstance(since, datetime) and event.time >= since)
            if begun:
                show_event(event, as_json=target.as_json)
                shown += 1
        return shown

    async def work(client: Client) -> int:
        if model is None:
            return await show(client, None)
        if follow:  # an empty log may be the beginning, so the id is looked up first
            return await show(client, await meant(client, model))
        return await about_model(client, model, partial(show, client), is_empty=lambda shown: not shown)

    if not target.run(work) and (subject or model):
        click.echo(f"no event matches {subject or model} so far", err=True)


def show_event(event: Recorded, *, as_json: bool) -> None:
    """Print one event on a line."""
    from suite.cli.output import folded, json_line

    if as_json:
        json_line(document(event))
    else:
        time = event.time.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        folded(f"{event.seq:>6}  {time}  {event.subject}  {details(event)}".rstrip(), indent=8)


def document(event: Recorded) -> dict[str, Any]:
    """The event as printed in JSON. An event of a later version keeps its body from the log unchanged."""
    from suite.messages.events import UnknownEvent

    fields: dict[str, Any] = msgspec.structs.asdict(event)
    if isinstance(event.data, UnknownEvent):
        fields["data"] = msgspec.Raw(event.data.body)
    return fields


def details(event: Recorded) -> str:
    """The fields of an event that are not in its subject, as text."""
    from suite.messages.events import UnknownEvent

    if isinstance(event.data, UnknownEvent):
        return event.type
    shown = event.subject.split(".")
    stored = msgspec.to_builtins(event.data)  # without defaults, of events that are stored without them
    parts = []
    for name, value in msgspec.structs.asdict(event.data).items():
        # An id that the subject has in another spelling, since a dot or a space cannot stand there, is shown.
        if name not in stored or value in (None, (), "") or (value in event.data.ids and value in shown):
            continue
        if _is_structured(value):
            continue  # `suite explain --seq` tells it in sentences
        if isinstance(value, datetime):
            value = value.isoformat()  # noqa: PLW2901 - without a space, so that it is copied as one word
        parts.append(f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}")
    return " ".join(parts)


def _is_structured(value: object) -> bool:
    """Whether a field has fields of its own, as what was weighed for a decision has."""
    several = value if isinstance(value, tuple) else (value,)
    return any(isinstance(each, msgspec.Struct) for each in several)
