"""Options shared by many commands, and the client that commands run with."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import anyio
import click
import msgspec

if TYPE_CHECKING:
    from suite.client import Client

T = TypeVar("T")
Callback: TypeAlias = Callable[..., Any]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Target(NamedTuple):
    """The service that a command talks to, and its output format."""

    data_dir: Path | None
    nats_url: str | None
    nats_user: str | None
    as_json: bool

    def connect(self) -> AbstractAsyncContextManager[Client]:
        """Connect a client to the service."""
        from suite.client import connect

        _warn_of_unknown_variables()
        password = os.environ.get("SUITE_NATS_PASSWORD") if self.nats_user else None
        return connect(self.nats_url, user=self.nats_user, password=password, data_dir=self.data_dir)

    def run(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """Run an async function with a client, and return its result."""

        async def connected() -> T:
            async with self.connect() as client:
                return await work(client)

        return anyio.run(connected)


def parsed_time(value: str) -> datetime:
    """Parse a time, or how long ago. A time without an offset is local. Raises BadParameter."""
    try:
        if ago := re.fullmatch(r"(\d+)([smhd])", value):
            return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
        time = datetime.fromisoformat(value)
        return time if time.tzinfo else time.astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value[:40]!r} is not a time such as 2026-01-31T12:00:00Z, nor a duration such as 10m, 2h or 1d"
        ) from None


def _time(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    return None if value is None else parsed_time(value).isoformat()


def window_options(command: Callback) -> Callback:
    """Add ``--since`` and ``--until``, converted to the times that the service expects."""
    until = click.option("--until", callback=_time, help="End before this time, or this long ago.")
    since = click.option(
        "--since", callback=_time, help="Start at this time, or this long ago (10m, 2h, 1d)."
    )
    return since(until(command))


def time_option(help: str) -> Callable[[Callback], Callback]:
    """Add ``--time``."""
    return click.option("--time", callback=_time, help=help)


def limit_option(default: int = 100, most: int = 1000) -> Callable[[Callback], Callback]:
    """Add ``--limit``."""
    kind = click.IntRange(1, most)
    return click.option(
        "--limit", type=kind, default=default, show_default=True, help="Maximum number of rows."
    )


def json_or_text(_: click.Context, __: click.Parameter, value: str | None) -> Any:
    """Parse a JSON object or list; anything else is text. Raises BadParameter for broken JSON."""
    if value is None or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"it starts like JSON but is not valid JSON ({error})") from None


def json_option(command: Callback) -> Callback:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def data_dir_option(help: str) -> Callable[[Callback], Callback]:
    """Add ``--data-dir``."""
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option("--data-dir", type=kind, help=help)


def client_command(command: Callback) -> Callback:
    """Add the options that find the service; the command gets them as its first argument ``target``."""

    @functools.wraps(command)
    def with_target(
        *args: Any,
        data_dir: Path | None,
        nats_url: str | None,
        nats_user: str | None,
        as_json: bool,
        **kwargs: Any,
    ) -> Any:
        return command(Target(data_dir, nats_url, nats_user, as_json), *args, **kwargs)

    decorated = json_option(with_target)
    decorated = click.option("--nats-user", help="NATS user; the password is read from SUITE_NATS_PASSWORD.")(
        decorated
    )
    decorated = click.option("--nats-url", help="URL of the NATS server that the service uses.")(decorated)
    return data_dir_option("Data directory of the service.")(decorated)


def _warn_of_unknown_variables() -> None:
    from suite.config import variables

    for name, hint in variables.unknown(os.environ):
        click.echo(f"warning: {name} is not known and has no effect{hint}", err=True)
