"""What each role can do to others by any trick of subjects: nothing. One permission more is noticed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from suite.bus import embedded
from suite.bus.accounts import FOR_OPERATORS, User, accounts, roles
from suite.bus.credentials import OFFERED, Credentials
from suite.bus.embedded import EmbeddedServer
from suite.messages.actor import NatsAccess
from suite.messages.subjects import Subjects
from support.journal import SUBJECTS
from support.walk import SENT, Watched, harm

MAY_ASK = {
    "operator": frozenset({"clear_kv_cache", *FOR_OPERATORS}),
    "client": frozenset({"clear_kv_cache"}),
}
WIDENED: Mapping[str, tuple[str, str, str, str]] = {
    "asks": ("client", "publish", "$JS.API.INFO", "changes the log"),
    "consumes": ("operator", "publish", "$JS.API.CONSUMER.CREATE.SUITE", "reaches suite.actor.box1.i.clear"),
    "appends": ("client", "publish", "suite.event.>", "changes the log"),
    "commands": ("client", "publish", "suite.actor.>", "reaches suite.actor.box1.i.clear"),
    "forges": ("client", "publish", "_INBOX.>", "writes to _INBOX.operator.another"),
    "listens": ("client", "subscribe", "_INBOX.operator.>", "listens to _INBOX.operator.probe"),
    "spies": ("operator", "subscribe", "suite.>", "listens to suite.actor.box1.i.probe"),
    "goes_through": ("consumer", "publish", "suite.origin.>", "changes the log"),
    "overhears": ("consumer", "subscribe", "_MIRROR.>", "listens to"),
    "adds": ("operator", "publish", "$JS.API.STREAM.CREATE.OTHER", "changes the log"),
}
"""By a user's name: whose permissions it has, one more to publish or subscribe, and what comes of that."""


@asynccontextmanager
async def server_of_all(directory: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, NatsAccess]]:
    """A server with the real roles, and a user for each that has one permission more."""

    def with_widened(subjects: Subjects, users: Sequence[User]) -> dict[str, Any]:
        made = accounts(subjects, users)
        for name, (role, verb, subject, _) in WIDENED.items():
            listed = made[roles(subjects)[role].account]["users"]
            permissions = roles(subjects)[role].permissions
            permissions[verb]["allow"].append(subject)
            listed.append({"user": name, "password": "more", "permissions": permissions})
        return made

    patch.setattr(embedded, "accounts", with_widened)
    users = (*Credentials.new().listed(), *(User(f"other-{role}", role, "other") for role in OFFERED))
    async with EmbeddedServer.start(directory / "nats", users=users) as server:
        access = {name: server.access_of(name) for name in (*roles(SUBJECTS), *(user.name for user in users))}
        for name, (role, *_) in WIDENED.items():
            prefix = access[role].inbox_prefix
            access[name] = NatsAccess(url=server.access.url, user=name, password="more", inbox_prefix=prefix)
        yield access


async def test_no_role_does_harm_by_any_subject_or_reply_and_one_permission_more_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server_of_all(tmp_path, monkeypatch) as access, Watched.on(access) as watched:
        for role in ("consumer", "client", "operator", "mirror"):
            found = await harm(watched, access[role], may_ask=MAY_ASK.get(role, frozenset()))
            assert found == set(), role
        for role in OFFERED:
            found = await harm(watched, access[f"other-{role}"], may_ask=MAY_ASK.get(role, frozenset()))
            assert found == set(), f"a user with the role {role}"
        for name, (role, verb, subject, expected) in WIDENED.items():
            more = {each: body for each, body in SENT.items() if verb == "publish" and _under(each, subject)}
            found = await harm(
                watched,
                access[name],
                may_ask=MAY_ASK.get(role, frozenset()),
                sent=more,
                expected=expected,
            )
            assert any(each.startswith(expected) for each in found), (name, found)


def _under(subject: str, allowed: str) -> bool:
    return subject == allowed or (allowed.endswith(">") and subject.startswith(allowed[:-1]))
