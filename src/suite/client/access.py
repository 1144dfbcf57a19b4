"""Finds the service: by URL, by the environment, or by the data directory of a node on this machine."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec

from suite.bus.connection import Connection
from suite.client.session import REQUEST_SECONDS, SILENCE_SECONDS, Client
from suite.config import ConnectionFile, chosen_data_dir, split_url
from suite.data_directory import is_held
from suite.errors import AccessDenied, InvalidConfiguration, Unavailable
from suite.identity import new_id
from suite.messages.actor import NatsAccess
from suite.messages.subjects import Subjects
from suite.tasks import background

DEFAULT_INBOX_PREFIX = "_INBOX"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The address and credentials of a service."""

    access: NatsAccess
    reader: NatsAccess | None = None
    """For reading the log, where that is another user; None: the same."""
    subject_root: str
    found_in: str
    """Where the address comes from, for error messages."""
    node_pid: int | None = None
    """The process of the node on this machine that has said the address; None: it was given."""
    is_server_own: bool = False
    """Whether that node runs the server too, so that nobody to be trusted is there when the node is not."""
    again: Callable[[], Target] | None = None
    """Finds the service again after a restart, where a file says where it is. Raises as `find` does."""

    def rediscover(self) -> NatsAccess:
        """How the service can be reached now. Raises as `find` does."""
        return self._current().access

    def rediscover_reader(self) -> NatsAccess:
        """How the log can be read now. Raises as `find` does."""
        current = self._current()
        return current.reader or current.access

    def _current(self) -> Target:
        if self.again is None:
            return self
        try:
            return self.again()
        except Unavailable:
            if self.is_server_own:
                raise
            return self


def find(
    url: str | None = None,
    *,
    user: str | None = None,
    password: str | None = None,
    data_dir: Path | str | None = None,
    inbox_prefix: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Target:
    """Find the service by `url`, by `data_dir`, by ``SUITE_NATS_URL``, or by the default data directory.

    The default is ``SUITE_DATA_DIR`` or the platform's directory. Without an inbox prefix the replies to a
    user go to ``_INBOX.<user>``, which the roles of the suite's own server may subscribe to. With a URL, the
    log is read as ``SUITE_NATS_READER_USER``, if there is one, and ``SUITE_NATS_CA`` is the file of the
    server's certificate authority. Raises Unavailable when no node serves from the data directory,
    AccessDenied when its connection.json may not be read, and InvalidConfiguration when that file is broken.
    """
    if url is None and data_dir is None and (url := environ.get("SUITE_NATS_URL")):
        return _by_url(
            url,
            user=user or environ.get("SUITE_NATS_USER"),
            password=password or environ.get("SUITE_NATS_PASSWORD"),
            credentials=environ.get("SUITE_NATS_CREDENTIALS"),
            inbox_prefix=inbox_prefix or environ.get("SUITE_NATS_INBOX_PREFIX"),
            environ=environ,
            found_in="SUITE_NATS_URL",
        )
    if url is not None:
        return _by_url(
            url,
            user=user,
            password=password,
            credentials=None if user else environ.get("SUITE_NATS_CREDENTIALS"),
            inbox_prefix=inbox_prefix,
            environ=environ,
            found_in="the URL given",
        )
    directory = chosen_data_dir(data_dir, environ)
    return _by_file(directory, user=user, password=password, inbox_prefix=inbox_prefix, environ=environ)


def _by_url(
    url: str,
    *,
    user: str | None,
    password: str | None,
    credentials: str | None,
    inbox_prefix: str | None,
    environ: Mapping[str, str],
    found_in: str,
) -> Target:
    bare, user_in_url, password_in_url = split_url(url)
    user, password = user or user_in_url, password or password_in_url
    return Target(
        access=NatsAccess(
            url=bare,
            user=user,
            password=password,
            credentials_file=credentials,
            ca_file=_ca(environ),
            inbox_prefix=inbox_prefix or _inbox_prefix(user),
        ),
        reader=_reader(bare, environ, _ca(environ)),
        subject_root=environ.get("SUITE_SUBJECT_ROOT") or "suite",
        found_in=found_in,
    )


def _reader(url: str, environ: Mapping[str, str], ca_file: str | None) -> NatsAccess | None:
    user = environ.get("SUITE_NATS_READER_USER")
    password = environ.get("SUITE_NATS_READER_PASSWORD")
    return NatsAccess(url=url, user=user, password=password, ca_file=ca_file) if user else None


def _ca(environ: Mapping[str, str]) -> str | None:
    """The certificate authority of a server that was found by its URL."""
    return environ.get("SUITE_NATS_CA") or None


def _inbox_prefix(user: str | None) -> str:
    return f"{DEFAULT_INBOX_PREFIX}.{user}" if user else DEFAULT_INBOX_PREFIX


def _by_file(
    data_dir: Path,
    *,
    user: str | None,
    password: str | None,
    inbox_prefix: str | None,
    environ: Mapping[str, str],
) -> Target:
    again = partial(
        _by_file, data_dir, user=user, password=password, inbox_prefix=inbox_prefix, environ=environ
    )
    found = _read_file(data_dir)
    if found.user is not None and not is_held(data_dir):  # another process may have its server's port by now
        raise Unavailable(_ended(found.pid, ConnectionFile.path(data_dir)))
    access, reader, credentials = found.access, found.reader_access, None
    if access.user is None and user is None:  # a NATS of one's own: who this is, is said elsewhere
        user, password = environ.get("SUITE_NATS_USER"), environ.get("SUITE_NATS_PASSWORD")
        inbox_prefix = inbox_prefix or environ.get("SUITE_NATS_INBOX_PREFIX")
        credentials = environ.get("SUITE_NATS_CREDENTIALS")
        reader = _reader(access.url, environ, access.ca_file)
    if user is not None or credentials is not None:
        access = NatsAccess(
            url=access.url,
            user=user,
            password=password,
            credentials_file=credentials,
            ca_file=access.ca_file,
            inbox_prefix=inbox_prefix or _inbox_prefix(user),
        )
    return Target(
        access=access,
        reader=reader,
        subject_root=found.subject_root,
        found_in=str(ConnectionFile.path(data_dir)),
        node_pid=found.pid,
        is_server_own=found.user is not None,
        again=again,
    )


def _read_file(data_dir: Path) -> ConnectionFile:
    path = ConnectionFile.path(data_dir)
    try:
        return ConnectionFile.read(data_dir)
    except (FileNotFoundError, NotADirectoryError):
        raise Unavailable(
            f"no service is running in {data_dir}: start one with `suite serve`, or give its address"
        ) from None
    except PermissionError:
        raise AccessDenied(f"{path} may not be read: it belongs to the user who runs `suite serve`") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise InvalidConfiguration(
            f"{path} was not written by `suite serve` or is damaged ({error}): start it again"
        ) from None


@asynccontextmanager
async def connect(
    url: str | None = None,
    *,
    user: str | None = None,
    password: str | None = None,
    data_dir: Path | str | None = None,
    inbox_prefix: str | None = None,
    name: str = "suite-client",
    request_seconds: float = REQUEST_SECONDS,
    silence_seconds: float = SILENCE_SECONDS,
) -> AsyncIterator[Client]:
    """Connect to the service at a URL, of a data directory, at ``SUITE_NATS_URL``, or on this machine.

    The first of these that is given counts. The last one reads the ``connection.json`` that `suite serve`
    writes into its data directory (``SUITE_DATA_DIR``, or the platform's default). ``request_seconds`` limits
    an action without progress; for one with progress, ``silence_seconds`` limits the time between two
    messages. Raises Unavailable, AccessDenied or InvalidConfiguration.

    When the connection is lost, it is made again by itself. A client that was found by its data directory
    also finds a service that has another address, or another password, since then.
    """
    target = find(url, user=user, password=password, data_dir=data_dir, inbox_prefix=inbox_prefix)
    async with _open(target, name) as connection, background() as tasks:
        yield Client(
            connection,
            tasks,
            reader=target.rediscover_reader if target.reader is not None else None,
            subjects=Subjects(target.subject_root),
            new_id=new_id,
            request_seconds=request_seconds,
            silence_seconds=silence_seconds,
        )


@asynccontextmanager
async def _open(target: Target, name: str) -> AsyncIterator[Connection]:
    opened = False
    try:
        async with Connection.open(
            target.access, name=name, rediscover=target.rediscover if target.again else None
        ) as connection:
            opened = True
            yield connection
    except Unavailable as error:
        if opened:
            raise
        raise Unavailable(_why_unreachable(error, target)) from None


def _why_unreachable(error: Unavailable, target: Target) -> str:
    """The message for an address at which nothing answers."""
    if target.node_pid is not None and not _is_running(target.node_pid):
        return _ended(target.node_pid, target.found_in)
    return f"{error.message}; the address is from {target.found_in}"


def _ended(pid: int, file: Path | str) -> str:
    return (
        f"the service is not running: process {pid}, which wrote {file}, has ended; "
        "start it with `suite serve`"
    )


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's
        return True
    return True
