"""Options that many commands have, and running one of them with a client."""

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


class Where(NamedTuple):
    """How the service is to be found, and how to answer."""

    data_dir: Path | None
    nats_url: str | None
    nats_user: str | None
    as_json: bool

    def connect(self) -> AbstractAsyncContextManager[Client]:
        """A client of that service."""
        from suite.client import connect

        password = os.environ.get("SUITE_NATS_PASSWORD") if self.nats_user else None
        return connect(self.nats_url, user=self.nats_user, password=password, data_dir=self.data_dir)

    def run(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """Do the work with a client, and return what it returns."""

        async def connected() -> T:
            async with self.connect() as client:
                return await work(client)

        return anyio.run(connected)


def parsed_time(value: str) -> datetime:
    """A time, or how long ago; one without an offset is this machine's. Raises BadParameter."""
    try:
        if ago := re.fullmatch(r"(\d+)([smhd])", value):
            return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
        time = datetime.fromisoformat(value)
        return time if time.tzinfo else time.astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value[:40]!r} is no time such as 2026-01-31T12:00:00Z, and no 10m, 2h or 1d"
        ) from None


def _time(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    return None if value is None else parsed_time(value).isoformat()


def window_options(command: Callback) -> Callback:
    """``--since`` and ``--until``, as the service takes them."""
    until = click.option("--until", callback=_time, help="Before this time, or this long ago.")
    since = click.option("--since", callback=_time, help="From this time on, or this long ago (10m, 2h, 1d).")
    return since(until(command))


def time_option(help: str) -> Callable[[Callback], Callback]:
    """``--time``."""
    return click.option("--time", callback=_time, help=help)


def limit_option(default: int = 100, most: int = 1000) -> Callable[[Callback], Callback]:
    """``--limit``."""
    kind = click.IntRange(1, most)
    return click.option("--limit", type=kind, default=default, show_default=True, help="Most rows to show.")


def json_or_text(_: click.Context, __: click.Parameter, value: str | None) -> Any:
    """An object or a list as JSON; anything else is text. What begins like JSON and is none is a slip."""
    if value is None or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"it begins like JSON and is none ({error})") from None


def json_option(command: Callback) -> Callback:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def data_dir_option(help: str) -> Callable[[Callback], Callback]:
    """``--data-dir``."""
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option("--data-dir", type=kind, help=help)


def client_command(command: Callback) -> Callback:
    """Give a command the options that find the service, as its first argument ``where``."""

    @functools.wraps(command)
    def with_where(
        *args: Any,
        data_dir: Path | None,
        nats_url: str | None,
        nats_user: str | None,
        as_json: bool,
        **kwargs: Any,
    ) -> Any:
        return command(Where(data_dir, nats_url, nats_user, as_json), *args, **kwargs)

    decorated = json_option(with_where)
    decorated = click.option("--nats-user", help="User; the password is taken from SUITE_NATS_PASSWORD.")(
        decorated
    )
    decorated = click.option("--nats-url", help="NATS that the service is on.")(decorated)
    return data_dir_option("Data directory of the service.")(decorated)
