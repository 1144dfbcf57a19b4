"""``suite credentials``: who may connect to the service's own NATS server."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import anyio
import click
import msgspec

from suite.bus import credentials as file
from suite.bus.accounts import ANY_INBOX, User, role_of
from suite.bus.embedded import HOST, last_port
from suite.cli.options import Callback, data_dir_option, json_option, warn_of_unknown_variables
from suite.config import ConnectionFile, chosen_data_dir
from suite.data_directory import is_held
from suite.errors import AccessDenied, DataDirUnusable, RequestTimeout, Unavailable, UsersElsewhere
from suite.messages.actor import NatsAccess
from suite.messages.subjects import Subjects

IN_FORCE_SECONDS = 10.0
"""How long a running service may take to admit or put out a user."""
_LOOK_SECONDS = 0.1


class Users:
    """The users of the service of one data directory, whether it is running or not."""

    def __init__(self, data_dir: Path, connection: ConnectionFile | None) -> None:
        self._data_dir = data_dir
        self._file = file.path(data_dir)
        self.connection = connection
        """None while the service is not running."""

    @classmethod
    def find(cls, data_dir: Path | None) -> Users:
        """Find the service as all commands do. Raises UsersElsewhere if it has no server of its own."""
        if data_dir is None and os.environ.get("SUITE_NATS_URL"):
            raise UsersElsewhere
        directory = chosen_data_dir(data_dir, os.environ)
        try:
            found = ConnectionFile.read(directory)
        except (OSError, msgspec.MsgspecError):
            found = None
        if found is not None and found.user is None:
            raise UsersElsewhere
        return cls(directory, found if is_held(directory) else None)

    def known(self) -> file.Credentials:
        """All users. Raises Unavailable before the first start, and DataDirUnusable."""
        try:
            return file.read(self._file)
        except FileNotFoundError:
            raise Unavailable(
                f"no service was started in {self._data_dir} yet: start one with `suite serve`"
            ) from None

    def change(self, edit: Callable[[file.Credentials], file.Credentials]) -> file.Credentials:
        """Change the file; a running service takes it up by itself."""
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise DataDirUnusable(f"{self._data_dir} cannot be made ({error.strerror})") from None
        return file.change(self._file, edit)

    def access(self, user: User) -> NatsAccess | None:
        """How this user connects; None while nobody knows the address, which is before the first start."""
        port = last_port(self._data_dir / "nats")
        url = self.connection.url if self.connection else f"nats://{HOST}:{port}" if port else None
        if url is None:
            return None
        prefix = role_of(user, Subjects(self.subject_root)).inbox_prefix
        ca = self.connection.ca if self.connection else None
        return NatsAccess(url=url, user=user.name, password=user.password, ca_file=ca, inbox_prefix=prefix)

    @property
    def subject_root(self) -> str:
        """The first token of the service's subjects."""
        return self.connection.subject_root if self.connection else "suite"

    def wait_in_force(self, user: User, *, admitted: bool) -> None:
        """Wait until a running service admits this user, or no longer does. Raises RequestTimeout."""
        access = self.access(user)
        if self.connection is None or access is None or anyio.run(_is_in_force, access, admitted):
            return
        shown = f"; `suite credentials show {user.name}` has the password" if admitted else ""
        raise RequestTimeout(
            f"it is stored, but the running service has not taken it up within {IN_FORCE_SECONDS:g} s: "
            f"restart it{shown}"
        )


async def _is_in_force(access: NatsAccess, admitted: bool) -> bool:
    """Wait for it. Returns False if that takes too long."""
    with anyio.move_on_after(IN_FORCE_SECONDS):
        while await _is_admitted(access) is not admitted:  # noqa: ASYNC110 - another process admits it
            await anyio.sleep(_LOOK_SECONDS)
        return True
    return False


async def _is_admitted(access: NatsAccess) -> bool | None:
    """Whether the server lets this user in; None while it does not answer."""
    from suite.bus.connection import Connection

    try:
        async with Connection.open(access, name="suite-credentials"):
            return True
    except AccessDenied:
        return False
    except Unavailable:
        return None


def _located(command: Callback) -> Callback:
    """Add ``--data-dir`` and ``--json``, also before the subcommand; the command gets ``Users`` first."""

    @functools.wraps(command)
    def with_users(data_dir: Path | None, as_json: bool, **kwargs: Any) -> Any:
        context = click.get_current_context()
        before: dict[str, Any] = context.parent.params if context.parent else {}
        users = Users.find(data_dir or before.get("data_dir"))
        return command(users, as_json=as_json or bool(before.get("as_json")), **kwargs)

    return data_dir_option("Data directory of the service.")(json_option(with_users))


@click.group(invoke_without_command=True)
@data_dir_option("Data directory of the service.")
@json_option
@click.pass_context
def credentials(context: click.Context, data_dir: Path | None, as_json: bool) -> None:
    """List, show, add, rotate and revoke the users of the service's own NATS server.

    Alone it lists them, without passwords. A change is in force at once, also without a restart: who is
    revoked, or has another password, is disconnected; all others stay connected. Each role has a user of its
    name from the start, and clients on this machine find those of `operator` and `consumer` by themselves.

    \b
    Roles:
      client    use models: every action but rebuilding read models
      operator  every action
      consumer  read the events

    \b
    Examples:
      suite credentials
      suite credentials show client
      suite credentials add laptop --role client
      suite credentials rotate laptop
      suite credentials revoke laptop
    """
    warn_of_unknown_variables()
    if context.invoked_subcommand is None:
        _list(Users.find(data_dir), as_json=as_json)


def _list(users: Users, *, as_json: bool) -> None:
    from suite.cli.output import json_line, table

    root = users.subject_root
    rows = [
        {"user": user.name, "role": user.role, "inbox_prefix": role_of(user, Subjects(root)).inbox_prefix}
        for user in users.known().listed()
    ]
    if as_json:
        json_line({"users": rows})
    else:
        table(["user", "role", "inbox prefix"], [list(row.values()) for row in rows])


@credentials.command()
@click.argument("name")
@_located
def show(users: Users, *, name: str, as_json: bool) -> None:
    """Show what a client needs to connect as this user, the password too.

    \b
    Examples:
      suite credentials show client
      suite credentials show consumer --json
    """
    found = users.known().get(name)
    _show(users, User(name, found.role, found.password), as_json=as_json)


@credentials.command()
@click.argument("name")
@click.option("--role", type=click.Choice(get_args(file.OfferedRole)), required=True, help="What it may do.")
@_located
def add(users: Users, *, name: str, role: file.OfferedRole, as_json: bool) -> None:
    """Add a user, and show what a client needs to connect as it.

    \b
    Examples:
      suite credentials add laptop --role client
      suite credentials add audit --role consumer --json
    """
    user = User(name, role, file.new_password())
    users.change(lambda known: known.add(name, role, user.password))
    users.wait_in_force(user, admitted=True)
    _show(users, user, as_json=as_json)


@credentials.command()
@click.argument("name")
@_located
def rotate(users: Users, *, name: str, as_json: bool) -> None:
    """Give a user a new password, and show it. Who is connected with the old one is disconnected.

    \b
    Examples:
      suite credentials rotate laptop
      suite credentials rotate operator
    """
    users.known()
    password = file.new_password()
    changed = users.change(lambda known: known.rotate(name, password))
    user = User(name, changed.get(name).role, password)
    users.wait_in_force(user, admitted=True)
    _show(users, user, as_json=as_json)


@credentials.command()
@click.argument("name")
@_located
def revoke(users: Users, *, name: str, as_json: bool) -> None:
    """Remove a user. Who is connected as it is disconnected.

    \b
    Examples:
      suite credentials revoke laptop
    """
    from suite.cli.output import json_line

    found = users.known().get(name)
    users.change(lambda known: known.revoke(name))
    users.wait_in_force(User(name, found.role, found.password), admitted=False)
    if as_json:
        json_line({"revoked": name})
    else:
        click.echo(f"{name} is revoked")


def _show(users: Users, user: User, *, as_json: bool) -> None:
    from suite.cli.output import json_line, note

    access, root = users.access(user), users.subject_root
    fields = {
        "user": user.name,
        "role": user.role,
        "password": user.password,
        "url": access.url if access else None,
        "inbox_prefix": role_of(user, Subjects(root)).inbox_prefix,
        "subject_root": root,
    }
    if as_json:
        json_line(fields)
        return
    if access is None:
        note("the URL is known when the service has been started once")
    for name, value in fields.items():
        if name != "subject_root" and value is not None:
            click.echo(f"{name.replace('_', ' '):<12}  {value}")
    if access is not None:
        click.echo()
        click.echo(_example(access, user.role, Subjects(root)))


def _example(access: NatsAccess, role: str, subjects: Subjects) -> str:
    """The same for the `nats` command line, with the password where `ps` does not show it."""
    asked = (
        f"stream view {subjects.stream}"
        if role == "consumer"
        else f"request {subjects.action('list_models')} {{}}"
    )
    prefix = "" if access.inbox_prefix == ANY_INBOX else f"--inbox-prefix {access.inbox_prefix} "
    return (
        f"export NATS_URL={access.url} NATS_USER={access.user} NATS_PASSWORD={access.password}\n"
        f"nats {prefix}{asked}"
    )
