"""create_key, list_keys and revoke_key."""

from __future__ import annotations

import secrets
from datetime import datetime

from suite.actions.id_pages import cursor_of, ids_after
from suite.bus.service import Call, action
from suite.domain.keys import Keys, create, digest, is_expired, revoke
from suite.messages.actions.keys import (
    CreateKeyReply,
    CreateKeyRequest,
    KeyInfo,
    ListKeysReply,
    ListKeysRequest,
    RevokeKeyReply,
    RevokeKeyRequest,
)
from suite.messages.events import Event, KeyCreated, KeyRevoked
from suite.messages.subjects import Subjects
from suite.messages.times import parse_time, rfc3339
from suite.node.aggregate import settle
from suite.node.node import Node
from suite.projections.reply_size import as_many_as_fit

SECRET_PREFIX = "sk-suite-"
"""By it programs that look for leaked secrets recognise one. Some clients take only what begins with sk-."""
SECRET_BYTES = 32


@action("create_key")
async def create_key(node: Node, request: CreateKeyRequest, call: Call) -> CreateKeyReply:
    """Make a key. Names are unique, so all keys are one aggregate."""
    secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    expires_at = None if request.expires_at is None else parse_time(request.expires_at, "expires_at")
    fact = KeyCreated(
        key_id=node.new_id(),
        name=request.name,
        sha256=digest(secret),
        models=request.models,
        endpoints=request.endpoints,
        requests_per_minute=request.requests_per_minute,
        tokens_per_minute=request.tokens_per_minute,
        expires_at=expires_at,
    )
    seq = await settle(
        node.log,
        _all_keys(node),
        f"the key {fact.name}",
        Keys(),
        evolve=_evolve,
        decide=lambda keys: create(keys, fact, node.now()),
        correlation_id=call.request_id,
    )
    assert seq is not None, "it is appended, or refused"
    return CreateKeyReply(
        key_id=fact.key_id, name=fact.name, secret=secret, expires_at=_told(expires_at), seq=seq
    )


@action("list_keys", is_lookup=True)
async def list_keys(node: Node, request: ListKeysRequest, _: Call) -> ListKeysReply:
    """List the keys, by name. They are read from the log, which has few events about keys."""
    keys, made_at = Keys(), dict[str, datetime]()
    async for recorded in node.log.read(_all_keys(node)):
        keys.apply(recorded.data)
        if isinstance(recorded.data, KeyCreated):
            made_at.setdefault(recorded.data.key_id, recorded.time)
    by_name, now = {key.name: key for key in keys}, node.now()
    names = ids_after(sorted(by_name), request.cursor)
    page = as_many_as_fit(
        (_info(by_name[name], made_at[by_name[name].key_id], now) for name in names), limit=request.limit
    )
    return ListKeysReply(keys=page, next_cursor=cursor_of(page[-1].name) if len(page) < len(names) else None)


@action("revoke_key")
async def revoke_key(node: Node, request: RevokeKeyRequest, call: Call) -> RevokeKeyReply:
    """Revoke a key."""
    revoked: list[KeyRevoked] = []

    def decide(keys: Keys) -> KeyRevoked:
        revoked[:] = [revoke(keys, request.name)]
        return revoked[0]

    seq = await settle(
        node.log,
        _all_keys(node),
        f"the end of the key {request.name}",
        Keys(),
        evolve=_evolve,
        decide=decide,
        correlation_id=call.request_id,
    )
    assert seq is not None, "it is appended, or refused"
    return RevokeKeyReply(key_id=revoked[0].key_id, name=revoked[0].name, seq=seq)


def _all_keys(node: Node) -> str:
    return Subjects(node.settings.subject_root).aggregate(KeyCreated.aggregate)


def _evolve(keys: Keys, event: Event) -> Keys:
    keys.apply(event)
    return keys


def _info(key: KeyCreated, made_at: datetime, now: datetime) -> KeyInfo:
    return KeyInfo(
        key_id=key.key_id,
        name=key.name,
        models=key.models,
        endpoints=key.endpoints,
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
        created_at=rfc3339(made_at),
        expires_at=_told(key.expires_at),
        expired=is_expired(key, now),
    )


def _told(time: datetime | None) -> str | None:
    return None if time is None else rfc3339(time)
