"""The keys of the gateway: which there are, by a fold of the log, and what each may do.

The log has the SHA-256 of each secret and not the secret. That is enough to recognise it, and no help in
finding it: a secret has 256 random bits, unlike a password (ADR 53).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Final

from suite.errors import (
    ExpiredApiKey,
    InvalidApiKey,
    InvalidRequest,
    KeyExists,
    KeyNotFound,
    KeyNotPermitted,
)
from suite.messages.events import Event, KeyCreated, KeyEndpoint, KeyRevoked

MOST_KEYS: Final = 10_000
"""More keys than this are refused, so that a gateway can hold them all."""

_is_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}", re.ASCII).fullmatch


class Keys:
    """The keys that were made and not revoked."""

    def __init__(self) -> None:
        self._by_digest: dict[str, KeyCreated] = {}
        self._digests: dict[str, str] = {}
        """By the ids of the keys. Those of revoked ones stay, so that no copy of an old event revives one."""

    def apply(self, event: Event) -> None:
        """Take up an event of the log. Those that say nothing about keys are passed over."""
        match event:
            case KeyCreated() if event.key_id not in self._digests:
                self._digests[event.key_id] = event.sha256
                self._by_digest[event.sha256] = event
            case KeyRevoked():
                self._by_digest.pop(self._digests.setdefault(event.key_id, ""), None)
            case _:
                pass

    def __iter__(self) -> Iterator[KeyCreated]:
        """Each of them, expired ones too."""
        return iter(self._by_digest.values())

    def __len__(self) -> int:
        """How many there are."""
        return len(self._by_digest)

    def with_id(self, key_id: str) -> KeyCreated | None:
        """The key with this id."""
        return self._by_digest.get(self._digests.get(key_id, ""))

    def with_secret(self, secret: str) -> KeyCreated | None:
        """The key with this secret. How long the look takes says nothing of secrets: it is for a digest."""
        return self._by_digest.get(digest(secret))


def digest(secret: str) -> str:
    """What the log has of a secret."""
    return sha256(secret.encode(errors="surrogatepass")).hexdigest()


def is_expired(key: KeyCreated, now: datetime) -> bool:
    """Whether it is refused because its time is over."""
    return key.expires_at is not None and now >= key.expires_at


def covers(key: KeyCreated, model_id: str) -> bool:
    """Whether one of its patterns is that of the model."""
    return any(fnmatchcase(model_id, pattern) for pattern in key.models)


def covers_all(key: KeyCreated) -> bool:
    """Whether one of its patterns is that of every model."""
    return "*" in key.models


def create(keys: Keys, fact: KeyCreated, now: datetime) -> KeyCreated:
    """The fact to append. Raises InvalidRequest, KeyExists."""
    if not _is_name(fact.name):
        raise InvalidRequest(
            f"field 'name': {fact.name[:80]!r} cannot be a key's name: use up to 64 letters, digits, "
            "-, _, . and @, and begin with a letter or digit"
        )
    if is_expired(fact, now):
        raise InvalidRequest("field 'expires_at': that time is over: send one to come")
    if "view" in fact.endpoints and not covers_all(fact):
        raise InvalidRequest(
            "field 'models': what is looked at is about all models: make a key with `view` for all of them, "
            "and another one for some"
        )
    if any(key.name == fact.name for key in keys):
        raise KeyExists(f"there is a key {fact.name} already: choose another name, or revoke it first")
    if len(keys) >= MOST_KEYS:
        raise InvalidRequest(f"there are {MOST_KEYS} keys: revoke some first")
    return fact


def revoke(keys: Keys, name_or_id: str) -> KeyRevoked:
    """The fact to append. Raises KeyNotFound."""
    for key in keys:
        if name_or_id in (key.name, key.key_id):
            return KeyRevoked(key_id=key.key_id, name=key.name)
    raise KeyNotFound(f"there is no key {name_or_id[:80]!r}: `suite keys` lists those there are")


def identify(keys: Keys, secret: str | None, now: datetime) -> KeyCreated:
    """The key with this secret. Raises InvalidApiKey, ExpiredApiKey."""
    if not secret:
        raise InvalidApiKey("a key is needed: send it as `Authorization: Bearer KEY`, or as `x-api-key`")
    key = keys.with_secret(secret)
    if key is None:
        raise InvalidApiKey("this key is mistyped or was revoked: `suite keys create` makes one")
    require_current(key, now)
    return key


def require_current(key: KeyCreated, now: datetime) -> None:
    """Raise ExpiredApiKey if the time of the key is over."""
    if is_expired(key, now):
        raise ExpiredApiKey(f"the key {key.name} has expired: ask for a new one")


def rights(key: KeyCreated) -> frozenset[str]:
    """What it may be used for. Who may change things for all may look at them, too."""
    return frozenset(key.endpoints) | ({"view"} if "admin" in key.endpoints else set())


def require(key: KeyCreated, endpoint: KeyEndpoint) -> None:
    """Raise KeyNotPermitted unless the key may be used for this."""
    if endpoint not in rights(key):
        may = ", ".join(key.endpoints)
        raise KeyNotPermitted(f"the key {key.name} may not be used for {endpoint}, only for: {may}")


def require_admin(key: KeyCreated, wish: str) -> None:
    """Raise KeyNotPermitted unless the key may do what changes things for all."""
    if "admin" not in key.endpoints:
        raise KeyNotPermitted(
            f"the key {key.name} may not {wish}: leave that out, or use a key that was made with "
            "`--endpoint admin`"
        )


def require_model(key: KeyCreated, model_id: str) -> None:
    """Raise KeyNotPermitted unless the key may be used with this model."""
    if not covers(key, model_id):
        may = ", ".join(key.models)
        raise KeyNotPermitted(f"the key {key.name} may not use {model_id[:255]!r}, only: {may}")
