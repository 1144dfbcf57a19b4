"""Options that many commands have, and running one of them with a client."""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import anyio
import click

if TYPE_CHECKING:
    from suite.client import Client

T = TypeVar("T")
Callback: TypeAlias = Callable[..., Any]


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
