"""One snapshot: the saved state of a sequence."""

from __future__ import annotations

from typing import NamedTuple

from suite.engine.snapshots.directory import WriteJob
from suite.engine.snapshots.file import TOKEN_BYTES, Payload
from suite.engine.snapshots.files import retention_score


class Snapshot:
    """The saved state of a sequence: its tokens, its conversation, and the state itself while in memory."""

    __slots__ = (
        "adapters",
        "conversation_id",
        "count",
        "min_prefix",
        "name",
        "payload",
        "size",
        "tail",
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
        min_prefix: int,
        payload: Payload | None,
        size: int,
        used: float,
        adapters: str = "",
    ) -> None:
        self.name = name
        self.conversation_id = conversation_id
        self.tokens = tokens
        self.count = len(tokens) // TOKEN_BYTES
        self.tail = tail
        """Sampled after the tokens, not in the state; None: the conversation cannot be continued from it."""
        self.min_prefix = min_prefix
        """The fewest tokens to which the state can be truncated."""
        self.payload = payload
        """The state; None while it is only on disk."""
        self.size = size
        """Bytes that it takes in memory, with its tokens."""
        self.used = used
        self.adapters = adapters
        """The key of those that it was decoded with; empty: without any."""

    @property
    def retention_score(self) -> float:
        """The snapshot with the lowest score is evicted first."""
        return retention_score(self.count, self.size, self.used)

    def is_of(self, conversation_id: str | None, tokens: bytes) -> bool:
        """Whether it belongs to this conversation or, if it has none, whether these tokens extend it."""
        if self.conversation_id is None:
            return tokens.startswith(self.tokens)
        return self.conversation_id == conversation_id

    def write_job(self, conversation_id: str, payload: Payload) -> WriteJob:
        """The job that writes it to disk."""
        return WriteJob(
            name=self.name,
            conversation_id=conversation_id,
            tokens=self.tokens,
            tail=self.tail,
            min_prefix=self.min_prefix,
            payload=payload,
            used=self.used,
            adapters=self.adapters,
        )


class PrefixMatch(NamedTuple):
    """A snapshot that shares a prefix with a prompt."""

    tokens: int
    """The length of the common prefix."""
    total: int
    """The length of the whole snapshot."""
    snapshot: Snapshot
