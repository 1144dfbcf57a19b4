"""Options shared by many commands, and the client that commands run with."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

import anyio
import click
import msgspec
from click.shell_completion import CompletionItem

from suite.errors import SuiteError

if TYPE_CHECKING:
    from suite.client import Client

T = TypeVar("T")
Callback: TypeAlias = Callable[..., Any]

_IDS: Final = ("model", "models", "only", "id", "generation_id", "node", "nodes")
"""The arguments that name something."""
COMPLETION_SECONDS: Final = 1.0
"""How long the service may take to say what could be typed. A person waits for this after pressing Tab."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Target(NamedTuple):
    """The service that a command talks to, and its output format."""

    data_dir: Path | None
    nats_url: str | None
    nats_user: str | None
    on_node: str | None
    """The node whose answers are wanted; None: the fleet's."""
    as_json: bool

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Client]:
        """Connect a client to the service."""
        from suite.client import connect

        password = os.environ.get("SUITE_NATS_PASSWORD") if self.nats_user else None
        async with connect(
            self.nats_url, user=self.nats_user, password=password, data_dir=self.data_dir, name=_own_name()
        ) as client:
            yield client if self.on_node is None else client.on_node(self.on_node)

    @property
    def own_data_dir(self) -> Path | None:
        """The data directory of the service; None if it is found by its URL, and may be on any machine."""
        from suite.config import chosen_data_dir

        if self.nats_url is not None or (self.data_dir is None and os.environ.get("SUITE_NATS_URL")):
            return None
        return chosen_data_dir(self.data_dir, os.environ)

    def run(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """Run an async function with a client, and return its result."""

        async def connected() -> T:
            try:
                async with self.connect() as client:
                    return await work(client)
            except SuiteError:
                # Ctrl-C cancels the task, which whoever waits may turn into an error of its own.
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise asyncio.CancelledError from None
                raise

        return anyio.run(connected)


def target_of(ctx: click.Context) -> Target:
    """The service that the command line says, as far as it is typed."""
    given = ctx.params
    return Target(
        given.get("data_dir"),
        given.get("nats_url"),
        given.get("nats_user"),
        given.get("on_node"),
        as_json=False,
    )


def node_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The nodes whose names begin like this; none if the service does not answer in time."""

    async def nodes() -> tuple[str, ...]:
        with anyio.fail_after(COMPLETION_SECONDS):
            async with target_of(ctx)._replace(on_node=None).connect() as client:
                return (await client.health_check()).nodes

    # Whatever goes wrong: a message would stand in the middle of what is being typed.
    with suppress(Exception):
        return [CompletionItem(name) for name in anyio.run(nodes) if name.startswith(incomplete)]
    return []


def _own_name() -> str:
    """How this command calls itself, for people who look at what runs: ``suite run, process 4711``."""
    command = click.get_current_context(silent=True)
    return f"{command.command_path if command else 'suite'}, process {os.getpid()}"


def parsed_time(value: str) -> datetime:
    """Parse a time, or how long ago. A time without an offset is local. Raises BadParameter."""
    return _parsed(value, direction=-1)


def parsed_end(value: str) -> datetime:
    """Parse a time, or how long from now. A time without an offset is local. Raises BadParameter."""
    return _parsed(value, direction=1)


def _parsed(value: str, *, direction: int) -> datetime:
    try:
        if span := re.fullmatch(r"(\d+)([smhd])", value):
            return datetime.now(UTC) + direction * timedelta(seconds=int(span[1]) * _UNITS[span[2]])
        time = datetime.fromisoformat(value)
        return time if time.tzinfo else time.astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value[:40]!r} is not a time such as 2026-01-31T12:00:00Z, nor a duration such as 10m, 2h or 1d"
        ) from None


def time_of(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Parse an option's time, or how long ago, into RFC 3339. Raises BadParameter."""
    return None if value is None else parsed_time(value).isoformat()


def window_options(command: Callback) -> Callback:
    """Add ``--since`` and ``--until``, converted to the times that the service expects."""
    until = click.option(
        "--until", callback=time_of, help="End before this time, or this long ago.  [default: now]"
    )
    since = click.option(
        "--since",
        callback=time_of,
        help="Start at this time, or this long ago (10m, 2h, 1d).  [default: the oldest]",
    )
    return since(until(command))


def time_option(help: str) -> Callable[[Callback], Callback]:
    """Add ``--time``."""
    return click.option("--time", callback=time_of, help=help)


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
    return click.option(
        "--data-dir", type=kind, help=f"{help}  [default: SUITE_DATA_DIR, or that of this user]"
    )


def _checked(name: str, value: Any) -> Any:
    """A value as it can be sent to the service. Raises BadParameter for what is no text and no number."""
    match value:
        case "" if name in _IDS:
            raise _bad(name, "it is empty")
        case str():
            try:  # in a locale without UTF-8 its bytes come as surrogates
                return os.fsencode(value).decode()
            except UnicodeError:
                raise _bad(name, f"{value!r} is not UTF-8 text") from None
        case float() if not math.isfinite(value):
            raise _bad(name, f"{value} is not a finite number")
        case tuple():
            return tuple(_checked(name, each) for each in value)
        case _:
            return value


def _bad(name: str, problem: str) -> click.BadParameter:
    context = click.get_current_context()
    parameters = {parameter.name: parameter for parameter in context.command.params}
    return click.BadParameter(problem, ctx=context, param=parameters.get(name))


def client_command(command: Callback) -> Callback:
    """Add the options that find the service, and ``--on``; the command gets them first, as ``target``."""
    on_node = click.option(
        "--on",
        "on_node",
        metavar="NODE",
        shell_complete=node_names,
        help="Ask this node only, and only about itself.  "
        "[default: the whole fleet, or the node that serves it best]",
    )
    return _found_by_options(on_node(json_option(_with_target(command))))


def fleet_command(command: Callback) -> Callback:
    """The same without ``--on``, for what no single node could answer, or what names its nodes itself."""
    return _found_by_options(json_option(_with_target(command)))


def _with_target(command: Callback) -> Callback:
    """The command, with the options that find the service as its first argument."""

    @functools.wraps(command)
    def with_target(
        *args: Any,
        **given: Any,
    ) -> Any:
        warn_of_unknown_variables()
        values = {"on_node": None} | {name: _checked(name, value) for name, value in given.items()}
        target = Target(*(values.pop(name) for name in Target._fields))
        return command(target, *args, **values)

    return with_target


def _found_by_options(command: Callback) -> Callback:
    """Add the options that say where the service is."""
    decorated = click.option(
        "--nats-user",
        help="NATS user; the password is read from SUITE_NATS_PASSWORD.  [default: SUITE_NATS_USER]",
    )(command)
    decorated = click.option(
        "--nats-url",
        help="URL of the NATS server of the service.  [default: SUITE_NATS_URL, or from the data directory]",
    )(decorated)
    return data_dir_option("Data directory of the service.")(decorated)


def warn_of_unknown_variables() -> None:
    """Say which variables look like settings of the suite and are none."""
    from suite.config import variables

    for name, hint in variables.unknown(os.environ):
        click.echo(f"warning: {name} is not known and has no effect{hint}", err=True)
