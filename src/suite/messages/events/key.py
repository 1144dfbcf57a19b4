"""Facts about the keys of the gateway."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from suite.messages.events.base import Event, event

KeyEndpoint: TypeAlias = Literal[
    "chat", "completions", "embeddings", "rerank", "tokens", "models", "view", "admin"
]
"""What a key may be used for. `tokens`: count tokens, and convert text to tokens and back; `models`: list and
describe them; `view`: look at all that is the case and all that has happened; `admin`: that too, unload
models, read metrics."""


class KeyEvent(Event, frozen=True, kw_only=True):
    """A fact about one key, with which programs use the gateway."""

    key_id: str
    name: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.key_id,)


@event("key", "created")
class KeyCreated(KeyEvent, frozen=True, kw_only=True, omit_defaults=True):
    """A key was made. Its secret is not stored: it has 256 random bits, and its digest does not tell it."""

    sha256: str
    """The SHA-256 of the secret, in hexadecimal."""
    models: tuple[str, ...]
    """Patterns of the models that it may use; ``*`` stands for any text, ``?`` for any character."""
    endpoints: tuple[str, ...]
    """What it may be used for; a later version may know more than this one."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of prompts and of answers together."""
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    """None: never."""


@event("key", "revoked")
class KeyRevoked(KeyEvent, frozen=True, kw_only=True):
    """The key is worth nothing from now on."""
