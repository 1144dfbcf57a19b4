"""One snapshot: what it is of, and what it is worth."""

from __future__ import annotations

from typing import NamedTuple

from suite.engine.snapshots.directory import Job
from suite.engine.snapshots.file import TOKEN_BYTES, Payload
from suite.engine.snapshots.files import worth


class Snapshot:
    """One state: what it is of, and its bytes while they are in memory."""

    __slots__ = (
        "conversation_id",
        "count",
        "name",
        "payload",
        "shortest",
        "size",
        "tail",
        "tokens",
        "tokens",
        "used",
    )

    def __init__(
        self,
        name: str,
        conversation_id: str | None,
        tokens: bytes,
        *,
        tail: tuple[int, ...] | None,
        shortest: int,
        payload: Payload | None,
        size: int,
        used: float,
    ) -> None:
        self.name = name
        self.conversation_id = conversation_id
        self.tokens = tokens
        self.count = len(tokens) // TOKEN_BYTES
        self.tail = tail
        """What was said after the tokens; None: the conversation cannot go on from here."""
        self.shortest = shortest
        """To how few tokens the state can be cut back."""
        self.payload = payload
        self.size = size
        """Bytes it takes in memory, with its tokens."""
        self.used = used

    @property
    def worth(self) -> float:
        """What counts when there is no room for all."""
        return worth(self.count, self.size, self.used)

    def is_of(self, conversation_id: str | None, tokens: bytes) -> bool:
        """Whether it is of this conversation, or where that has no name, of what led to these tokens."""
        if self.conversation_id is None:
            return tokens.startswith(self.tokens)
        return self.conversation_id == conversation_id

    def job(self, conversation_id: str, payload: Payload) -> Job:
        """Its way to disk."""
        return Job(
            name=self.name,
            conversation_id=conversation_id,
            tokens=self.tokens,
            tail=self.tail,
            shortest=self.shortest,
            payload=payload,
            used=self.used,
        )


class Found(NamedTuple):
    """A snapshot that begins as a prompt does."""

    tokens: int
    """How many tokens they have in common."""
    total: int
    """How many tokens it has."""
    snapshot: Snapshot
