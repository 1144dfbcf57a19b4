"""``suite keys``: who may use the gateway, and for what."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, get_args

import click

from suite.cli.options import Callback, Target, fleet_command, parsed_end
from suite.messages.events import KeyEndpoint

if TYPE_CHECKING:
    from suite.client import Client
    from suite.messages.actions.keys import CreateKeyReply, KeyInfo, ListKeysReply, RevokeKeyReply


def _keys_command(command: Callback) -> Callback:
    """A command that takes the options which find the service also before its name."""

    @functools.wraps(command)
    def with_both(target: Target, **given: Any) -> Any:
        context = click.get_current_context()
        before: dict[str, Any] = context.parent.params if context.parent else {}
        both: dict[str, Any] = {name: own or before.get(name) for name, own in target._asdict().items()}
        return command(Target(**both), **given)

    return fleet_command(with_both)


def _end(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    return None if value is None else parsed_end(value).isoformat()


@click.group(invoke_without_command=True)
@fleet_command
def keys(target: Target) -> None:
    """List, make and revoke the keys with which programs use the gateway.

    Alone it lists them. A key has a name; its secret is shown once, when it is made, and stored nowhere.
    Gateways take a change up within a moment. Only the role operator may do this.

    \b
    Examples:
      suite keys
      suite keys create laptop
      suite keys create team --model "gemma*" --endpoint chat --requests-per-minute 60 --expires 30d
      suite keys revoke laptop
    """
    if click.get_current_context().invoked_subcommand is None:
        _list(target)


@keys.command("list")
@_keys_command
def list_(target: Target) -> None:
    """List the keys that were made and not revoked, without their secrets.

    \b
    Examples:
      suite keys list
      suite keys list --json
    """
    _list(target)


@keys.command()
@click.argument("name")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="A model that it may use; * stands for any text; may be repeated.  [default: *]",
)
@click.option(
    "--endpoint",
    "endpoints",
    type=click.Choice(get_args(KeyEndpoint)),
    multiple=True,
    help="What it may be used for; may be repeated.  [default: all but view and admin]",
)
@click.option(
    "--requests-per-minute", type=click.IntRange(1), help="How many requests a minute.  [default: no limit]"
)
@click.option(
    "--tokens-per-minute",
    type=click.IntRange(1),
    help="How many tokens a minute, of prompts and answers together.  [default: no limit]",
)
@click.option(
    "--expires", callback=_end, help="For how long (12h, 30d), or until which time.  [default: for ever]"
)
@_keys_command
def create(
    target: Target,
    name: str,
    models: tuple[str, ...],
    endpoints: tuple[KeyEndpoint, ...],
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    expires: str | None,
) -> None:
    """Make a key, and show its secret: this once.

    \b
    Examples:
      suite keys create editor
      suite keys create ci --endpoint embeddings --tokens-per-minute 100000 --expires 30d --json
    """
    from suite.cli.output import json_line, local_time, note

    async def work(client: Client) -> CreateKeyReply:
        return await client.create_key(
            name,
            models=models or None,
            endpoints=endpoints or None,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            expires_at=expires,
        )

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
        return
    end = "" if reply.expires_at is None else f", which expires at {local_time(reply.expires_at)}"
    note(f"the key {reply.name}{end}; it is not shown again:")
    click.echo(reply.secret)


@keys.command()
@click.argument("name")
@_keys_command
def revoke(target: Target, name: str) -> None:
    """Revoke a key by its name or id. Who uses it is refused from then on.

    \b
    Examples:
      suite keys revoke editor
    """
    from suite.cli.output import json_line

    async def work(client: Client) -> RevokeKeyReply:
        return await client.revoke_key(name)

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    else:
        click.echo(f"{reply.name} is revoked (event {reply.seq})")


def _list(target: Target) -> None:
    from suite.cli.output import json_line, table

    async def work(client: Client) -> ListKeysReply:
        return await client.list_keys()

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    elif reply.keys:
        columns = ("name", "models", "endpoints", "requests/min>", "tokens/min>", "created", "expires", "id")
        table(columns, [_row(key) for key in reply.keys])
    else:
        click.echo("there are no keys: `suite keys create NAME` makes one")


def _row(key: KeyInfo) -> tuple[str, ...]:
    from suite.cli.output import exact, local_time

    end = "never" if key.expires_at is None else local_time(key.expires_at)
    return (
        key.name,
        " ".join(key.models),
        " ".join(key.endpoints),
        exact(key.requests_per_minute),
        exact(key.tokens_per_minute),
        local_time(key.created_at),
        f"{end}, over" if key.expired else end,
        key.key_id,
    )
