"""Keys of the gateway: making, listing and revoking them. Only operators may."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from suite.messages.actions.base import Limit, Moment, Reply, Request
from suite.messages.events import KeyEndpoint

KeyName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
ModelPattern: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        description="A model's id, in which `*` stands for any text and `?` for any character.",
    ),
]
Rate: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000_000)]


class CreateKeyRequest(Request, frozen=True, kw_only=True):
    """Make a key for a program that uses the gateway. The reply has its secret, which is kept nowhere."""

    name: KeyName
    """Letters, digits, ``-``, ``_``, ``.`` and ``@``. It is free again when the key is revoked."""
    models: Annotated[tuple[ModelPattern, ...], Meta(min_length=1, max_length=64)] = ("*",)
    """The models that it may use."""
    endpoints: Annotated[tuple[KeyEndpoint, ...], Meta(min_length=1)] = (
        "chat",
        "completions",
        "embeddings",
        "rerank",
        "tokens",
        "models",
    )
    """What it may be used for: by default all but ``view`` and ``admin``."""
    requests_per_minute: Rate | None = None
    """Null: no limit."""
    tokens_per_minute: Rate | None = None
    """Of prompts and answers together. Null: no limit."""
    expires_at: Moment | None = None
    """From then on it is refused. Null: never."""


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A key, without its secret."""

    key_id: str
    name: str
    models: tuple[str, ...]
    endpoints: tuple[str, ...]
    requests_per_minute: int | None
    tokens_per_minute: int | None
    created_at: str
    expires_at: str | None
    expired: bool


class CreateKeyReply(Reply, frozen=True, kw_only=True):
    """The key is in the log. Gateways take it up within a moment."""

    key_id: str
    name: str
    secret: str
    """What programs send as the key. Nobody can show it again."""
    expires_at: str | None
    seq: int
    """The sequence of the ``created`` event."""

    def __repr__(self) -> str:
        """Without the secret: it may get into a log by mistake."""
        return f"CreateKeyReply({self.name!r}, {self.key_id!r})"


class ListKeysRequest(Request, frozen=True, kw_only=True):
    """List the keys that were made and not revoked, by name."""

    limit: Limit = 100
    cursor: Annotated[str, Meta(max_length=200)] | None = None
    """``next_cursor`` of the previous page."""


class ListKeysReply(Reply, frozen=True, kw_only=True):
    """A page of keys."""

    keys: tuple[KeyInfo, ...]
    next_cursor: str | None = None
    """For the next page; null: there is none."""


class RevokeKeyRequest(Request, frozen=True, kw_only=True):
    """Revoke a key. Gateways refuse it within a moment, and within a second end answers that have begun."""

    name: KeyName
    """Its name, or its ``key_id``."""


class RevokeKeyReply(Reply, frozen=True, kw_only=True):
    """The key is revoked."""

    key_id: str
    name: str
    seq: int
    """The sequence of the ``revoked`` event."""
