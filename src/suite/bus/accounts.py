"""The two NATS accounts, the roles in each, and the exports that join them, in one table.

The embedded server is configured from this table, and ``deploy/nats`` is generated from it
(`suite.bus.deployment`). It follows these rules, which docs/security.md explains:

- The server does not check a publisher's reply subject, and JetStream answers there with the server's
  rights. So whoever may send requests to JetStream can make it publish on any subject *of its account*.
- Readers need JetStream. They have an account of their own with a mirror of the log. The subjects of
  actions, events and actors do not exist in that account.
- Clients and operators only send actions. They have no access to JetStream in the account of the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from suite.messages.subjects import Subjects

LOG_ACCOUNT: Final = "SUITE"
"""The account of the log, the suite's own processes, clients and operators.

The name is part of the path of the server's store: never rename it.
"""
READERS_ACCOUNT: Final = "SUITE_READERS"
"""The account of the log's mirror and of its readers."""

ANY_INBOX: Final = "_INBOX"
"""The inbox prefix of clients that choose none."""

FOR_OPERATORS: Final = (
    "rebuild_projection",
    "drain_node",
    "push_model",
    "set_alias",
    "promote_alias",
    "take_back_alias",
    "create_key",
    "list_keys",
    "revoke_key",
)
"""The actions that the role `client` may not request."""

READERS_LIMITS: Final[Mapping[str, int]] = {
    "max_connections": 64,
    "max_subscriptions": 512,  # for each connection
    "max_payload": 64 * 1024,  # bytes that a reader may send in one message
}
READERS_JETSTREAM: Final[Mapping[str, int]] = {
    "max_streams": 1,
    "max_consumers": 128,
    "max_ack_pending": 20_000,  # for each consumer
}


class User(NamedTuple):
    """One who may connect: a name, a role of `roles`, and a password."""

    name: str
    role: str
    password: str

    def __repr__(self) -> str:
        """Without the password: it may get into a log by mistake."""
        return f"User({self.name!r}, {self.role!r})"


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """The subjects of its account that a user with this role may publish and subscribe to.

    It is written for the user that is named like the role; `of` gives another user the same rights.
    """

    what: str
    account: str
    inbox_prefix: str
    """The prefix of the inboxes in which it receives replies."""
    publish: tuple[str, ...]
    refused: tuple[str, ...] = ()
    """Subjects it may not publish to, although ``publish`` includes them."""
    subscribe: tuple[str, ...]

    def of(self, user: str) -> Role:
        """The role for a user of any name, who receives replies in inboxes of its own.

        Readers stay with any inbox: who may read the whole log may see what others read.
        """
        if self.inbox_prefix == ANY_INBOX:
            return self
        own = f"{ANY_INBOX}.{user}"
        listened = tuple(
            subject.replace(self.inbox_prefix, own, 1) if subject.startswith(self.inbox_prefix) else subject
            for subject in self.subscribe
        )
        return msgspec.structs.replace(self, inbox_prefix=own, subscribe=listened)

    @property
    def permissions(self) -> dict[str, Any]:
        """The permissions as nats-server's configuration spells them."""
        return {
            "publish": {"allow": list(self.publish), "deny": list(self.refused)},
            "subscribe": {"allow": list(self.subscribe)},
        }


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """One export from the log's account to the readers' account. Only the mirror uses it."""

    what: str
    kind: Literal["service", "stream"]
    subject: str
    """The subject in the log's account."""
    local: str
    """The subject in the readers' account."""

    @property
    def exported(self) -> dict[str, Any]:
        """The export, as the configuration of the log's account spells it."""
        return {self.kind: self.subject, "accounts": [READERS_ACCOUNT]}

    @property
    def imported(self) -> dict[str, Any]:
        """The import, as the configuration of the readers' account spells it."""
        origin: dict[str, Any] = {self.kind: {"account": LOG_ACCOUNT, "subject": self.subject}}
        return origin if self.local == self.subject else origin | {"to": self.local}


def roles(subjects: Subjects) -> dict[str, Role]:
    """All roles by name."""
    actions = (subjects.action(">"), "$SRV.>")
    everything = (f"{subjects.root}.>", "$SRV.>", "$JS.>", "$KV.>", "$O.>")
    return {
        "suite": Role(
            what="The suite's own processes: all of its subjects, and the answers to everybody.",
            account=LOG_ACCOUNT,
            inbox_prefix="_INBOX.suite",
            publish=(*everything, "_INBOX.>"),
            subscribe=(*everything, "_INBOX.suite.>"),
        ),
        "operator": Role(
            what="Whoever runs the suite: every action. The log is read as consumer.",
            account=LOG_ACCOUNT,
            inbox_prefix="_INBOX.operator",
            publish=actions,
            subscribe=("_INBOX.operator.>",),
        ),
        "client": Role(
            what="Programs that use models: every action but those about files, read models, nodes and keys.",
            account=LOG_ACCOUNT,
            inbox_prefix="_INBOX.client",
            publish=actions,
            # Older clients put a slash before an action's name (`suite.bus.action`).
            refused=tuple(subjects.action(f"{slash}{name}") for name in FOR_OPERATORS for slash in ("", "/")),
            subscribe=("_INBOX.client.>",),
        ),
        "consumer": Role(
            what="Reads the log by its mirror, as any JetStream client does, with any inbox.",
            account=READERS_ACCOUNT,
            inbox_prefix=ANY_INBOX,
            publish=reading(subjects.stream),
            subscribe=("_INBOX.>",),
        ),
        "mirror": Role(
            what="Makes the mirror, and makes it anew. No reader may listen to its inbox.",
            account=READERS_ACCOUNT,
            inbox_prefix="_MIRROR",
            publish=(
                "$JS.API.INFO",
                "$JS.API.STREAM.NAMES",
                *(
                    f"$JS.API.STREAM.{verb}.{subjects.stream}"
                    for verb in ("INFO", "CREATE", "UPDATE", "DELETE")
                ),
            ),
            subscribe=("_MIRROR.>",),
        ),
    }


def reading(stream: str) -> tuple[str, ...]:
    """The subjects that a JetStream client publishes to when it reads a stream."""
    return (
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.STREAM.MSG.GET.{stream}",
        f"$JS.API.DIRECT.GET.{stream}",
        f"$JS.API.DIRECT.GET.{stream}.>",
        f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.INFO.{stream}.>",
        f"$JS.API.CONSUMER.NAMES.{stream}",
        f"$JS.API.CONSUMER.LIST.{stream}",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.>",
        f"$JS.API.CONSUMER.DELETE.{stream}.>",
        f"$JS.ACK.{stream}.>",
        f"$JS.ACK.*.*.{stream}.>",  # with domain and account in front (ADR-15 of NATS)
        f"$JS.FC.{stream}.>",
        f"$JS.FC.*.*.{stream}.>",
        f"$JS.API.STREAM.SNAPSHOT.{stream}",
        f"$JS.SNAPSHOT.ACK.{stream}.>",
    )


def doors(subjects: Subjects) -> tuple[Door, ...]:
    """The exports that the mirror needs from the log's account, and no others."""
    return (
        Door(
            what="The mirror makes its one consumer. No other request of JetStream goes through.",
            kind="service",
            subject=f"$JS.API.CONSUMER.CREATE.{subjects.stream}",
            local=f"{_origin(subjects)}.CONSUMER.CREATE.{subjects.stream}",
        ),
        Door(
            what="The mirror says that it keeps up.",
            kind="service",
            subject="$JS.FC.>",
            local="$JS.FC.>",
        ),
        Door(
            what="The events come. Nobody but the server sends to these subjects.",
            kind="stream",
            subject=f"{_deliveries(subjects)}.>",
            local=f"{_deliveries(subjects)}.>",
        ),
    )


def mirror_config(subjects: Subjects, *, replicated: bool = False) -> dict[str, Any]:
    """The configuration of the mirror: same stream name, sequences, subjects and headers as the log.

    It syncs lazily, because it can be rebuilt at any time; the server does that only for one that is not
    ``replicated``. What expires in the log expires here too. The number of replicas is not in it.
    """
    return {
        "name": subjects.stream,
        "storage": "file",
        **({} if replicated else {"persist_mode": "async"}),
        "compression": "s2",
        "mirror": {
            "name": subjects.stream,
            "external": {"api": _origin(subjects), "deliver": _deliveries(subjects)},
        },
        "allow_direct": True,
        "allow_msg_ttl": True,
        "deny_delete": True,
        "deny_purge": True,
    }


def accounts(subjects: Subjects, users: Sequence[User]) -> dict[str, Any]:
    """Both accounts with their users, in the form of a server's configuration."""
    joined = doors(subjects)
    return {
        LOG_ACCOUNT: {
            "jetstream": "enabled",
            "users": _users(LOG_ACCOUNT, subjects, users),
            "exports": [door.exported for door in joined],
        },
        READERS_ACCOUNT: {
            "jetstream": dict(READERS_JETSTREAM),
            "limits": dict(READERS_LIMITS),
            "users": _users(READERS_ACCOUNT, subjects, users),
            "imports": [door.imported for door in joined],
        },
    }


def role_of(user: User, subjects: Subjects) -> Role:
    """What a user may do. The suite's own users, ``suite`` and ``mirror``, have their roles as they stand."""
    role = roles(subjects)[user.role]
    return role if user.name == user.role else role.of(user.name)


def _users(account: str, subjects: Subjects, users: Sequence[User]) -> list[dict[str, Any]]:
    placed = ((user, role_of(user, subjects)) for user in users)
    return [
        {"user": user.name, "password": user.password, "permissions": role.permissions}
        for user, role in placed
        if role.account == account
    ]


def _origin(subjects: Subjects) -> str:
    """The prefix under which the readers' account reaches the JetStream API of the log's account."""
    return f"{subjects.root}.origin"


def _deliveries(subjects: Subjects) -> str:
    """The prefix of the subjects on which the log's account delivers messages to the mirror."""
    return f"{subjects.root}.mirror"
