"""``credentials.json``: who may connect to a node's own nats-server, with roles and passwords.

    with_bot = change(path(data_dir), lambda known: known.add("bot", "client", new_password()))

It lives in the data directory, so that clients come back after a restart of the service. The passwords of the
suite's own users are not in it: they are new at each start, so that a process that outlives its node can do
nothing more.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from suite.bus.accounts import User
from suite.data_directory import UMASK, write_private
from suite.errors import DataDirUnusable, InvalidRequest, UserExists, UserNotFound

logger = logging.getLogger("suite.credentials")

OfferedRole: TypeAlias = Literal["client", "consumer", "operator"]
OFFERED: Final[tuple[OfferedRole, ...]] = ("client", "consumer", "operator")
"""The roles that users may have. Each is also the name of a user that is there from the start."""
ESSENTIAL: Final[tuple[OfferedRole, ...]] = ("operator", "consumer")
"""The users whose passwords are in connection.json: they can be rotated, and not revoked."""
RESERVED: Final = frozenset({"suite", "mirror"})
"""The names of the suite's own users."""

_is_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII).fullmatch


class Credential(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The role and the password of one user."""

    role: OfferedRole
    password: Annotated[str, msgspec.Meta(min_length=1)]
    shared: bool = False
    """Whether all servers of a cluster have it, by the cluster file."""

    def __repr__(self) -> str:
        """Without the password: it may get into a log by mistake."""
        return f"Credential({self.role!r})"


class Credentials(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All users by name. A change makes a new object."""

    users: Mapping[str, Credential] = {}

    def __post_init__(self) -> None:
        """Check what somebody may have edited. Raises ValueError."""
        for name, credential in self.users.items():
            try:
                check_name(name)
            except InvalidRequest as error:
                raise ValueError(error.message) from None
            if name in OFFERED and name != credential.role:
                raise ValueError(f"the user {name} must have the role {name}")

    @classmethod
    def new(cls) -> Credentials:
        """One user for each role, with a new password."""
        return cls(users={role: Credential(role=role, password=new_password()) for role in OFFERED})

    def add(self, name: str, role: OfferedRole, password: str) -> Credentials:
        """Add a user. Raises InvalidRequest for an invalid name, and UserExists."""
        check_name(name)
        if name in self.users:
            raise UserExists(f"there is a user {name} already: choose another name, or rotate its password")
        if name in OFFERED and name != role:
            raise InvalidRequest(f"{name} is the name of a role: choose another, or give it the role {name}")
        return self._with(name, Credential(role=role, password=password))

    def rotate(self, name: str, password: str) -> Credentials:
        """Give a user another password. Raises UserNotFound, and InvalidRequest for a user of a cluster."""
        return self._with(name, Credential(role=self._own(name).role, password=password))

    def revoke(self, name: str) -> Credentials:
        """Remove a user.

        Raises UserNotFound, and InvalidRequest for one that connection.json needs, or of a cluster.
        """
        self._own(name)
        if name in ESSENTIAL:
            raise InvalidRequest(f"{name} is used by whoever can read connection.json: rotate it instead")
        return Credentials(users={each: kept for each, kept in self.users.items() if each != name})

    def sharing(self, users: Mapping[str, Credential]) -> Credentials:
        """With the users that all servers of a cluster have, in place of those that they had before."""
        own = {name: each for name, each in self.users.items() if not each.shared}
        shared = {name: msgspec.structs.replace(each, shared=True) for name, each in users.items()}
        return Credentials(users={**own, **shared})

    def get(self, name: str) -> Credential:
        """The credential of a user. Raises UserNotFound."""
        if (found := self.users.get(name)) is None:
            raise UserNotFound(f"there is no user {name[:80]!r}: `suite credentials` lists those there are")
        return found

    def listed(self) -> tuple[User, ...]:
        """The users as the server's configuration takes them."""
        return tuple(User(name, each.role, each.password) for name, each in self.users.items())

    def _own(self, name: str) -> Credential:
        if (found := self.get(name)).shared:
            raise InvalidRequest(
                f"{name} is a user of all nodes of the cluster: change its password in the cluster file of "
                "each machine, and start their nodes again one after the other"
            )
        return found

    def _with(self, name: str, credential: Credential) -> Credentials:
        return Credentials(users={**self.users, name: credential})


def new_password() -> str:
    """192 random bits, in characters that mean nothing to a shell, a URL or nats-server."""
    return secrets.token_hex(24)


def check_name(name: str) -> None:
    """Raises InvalidRequest for a name that no user can have: it is also a token of an inbox's subject."""
    if not _is_name(name):
        raise InvalidRequest(
            f"{name[:80]!r} cannot be a user's name: use up to 64 letters, digits, - and _, not - or _ first"
        )
    if name in RESERVED:
        raise InvalidRequest(f"{name} is a user of the suite's own: choose another name")


def path(data_dir: Path) -> Path:
    """The path of the file."""
    return data_dir / "credentials.json"


def read(file: Path) -> Credentials:
    """Read the file, and take from others what rights they have to it.

    Raises FileNotFoundError, and DataDirUnusable if it cannot be read, belongs to another user or is damaged.
    """
    try:
        with file.open("rb") as opened:
            make_private(opened.fileno(), file)
            content = opened.read()
        return msgspec.json.decode(content, type=Credentials)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataDirUnusable(f"{file} cannot be read ({error.strerror}): set its rights") from None
    except msgspec.MsgspecError as error:
        raise DataDirUnusable(
            f"{file} is damaged ({error}): restore it, or delete it and give every client its new password"
        ) from None


def change(file: Path, edit: Callable[[Credentials], Credentials] = lambda known: known) -> Credentials:
    """Change the file, one process after the other, and return what it has now.

    A file that is not there begins with one user for each role. Raises what ``edit`` raises, and
    DataDirUnusable.
    """
    with _locked(file):
        try:
            known = read(file)
        except FileNotFoundError:
            known = None
        changed = edit(Credentials.new() if known is None else _completed(known))
        if changed != known:
            _write(file, changed)
    return changed


def _completed(known: Credentials) -> Credentials:
    """With the users that must be there, which somebody may have removed by hand."""
    fresh = Credentials.new().users
    missing: dict[str, Credential] = {name: fresh[name] for name in ESSENTIAL if name not in known.users}
    return Credentials(users={**known.users, **missing})


def make_private(descriptor: int, file: Path) -> None:
    """Take from others what rights they have to an open file.

    Raises DataDirUnusable if it is another user's.
    """
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid():
        raise DataDirUnusable(
            f"{file} belongs to another user, who may know what is in it: run this as its owner, or delete it"
        )
    if stat.S_IMODE(status.st_mode) & UMASK:
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & ~UMASK)
        logger.warning("others could read %s: rotate its passwords with `suite credentials rotate`", file)


def _write(file: Path, credentials: Credentials) -> None:
    try:
        write_private(file, msgspec.json.format(msgspec.json.encode(credentials)))
    except OSError as error:
        raise _unwritable(file, error) from None


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Wait until no other process changes the file."""
    try:
        lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(file, error) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _unwritable(file: Path, error: OSError) -> DataDirUnusable:
    return DataDirUnusable(
        f"{file} cannot be written ({error.strerror}): see to the space and the rights of its directory"
    )
