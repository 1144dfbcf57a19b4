"""Finds the snapshot that shares the longest prefix with a prompt."""

from __future__ import annotations

from collections.abc import Iterator

from suite.engine.snapshots.file import TOKEN_BYTES
from suite.engine.snapshots.snapshot import PrefixMatch, Snapshot


class SnapshotIndex:
    """All snapshots in the order of their last use, at most one for each conversation."""

    def __init__(self) -> None:
        self._snapshots: dict[str, Snapshot] = {}
        """By name."""
        self._of_conversation: dict[str, Snapshot] = {}

    def __len__(self) -> int:
        return len(self._snapshots)

    def __iter__(self) -> Iterator[Snapshot]:
        """Iterate over a copy, the most recently used snapshot last."""
        return iter([*self._snapshots.values()])

    def __contains__(self, snapshot: Snapshot) -> bool:
        return self._snapshots.get(snapshot.name) is snapshot

    def get(self, name: str) -> Snapshot | None:
        """The snapshot of this name."""
        return self._snapshots.get(name)

    def of_conversation(self, conversation_id: str | None) -> Snapshot | None:
        """The snapshot of a conversation."""
        return None if conversation_id is None else self._of_conversation.get(conversation_id)

    def add(self, snapshot: Snapshot) -> None:
        """Add a snapshot as the most recently used one."""
        self._snapshots[snapshot.name] = snapshot
        if snapshot.conversation_id is not None:
            self._of_conversation[snapshot.conversation_id] = snapshot

    def remove(self, snapshot: Snapshot) -> None:
        """Remove a snapshot from the index."""
        del self._snapshots[snapshot.name]
        if snapshot.conversation_id is not None:
            del self._of_conversation[snapshot.conversation_id]

    def touch(self, snapshot: Snapshot, at: float) -> None:
        """Record that a snapshot was used just now, `at` epoch seconds."""
        snapshot.used = at
        self._snapshots[snapshot.name] = self._snapshots.pop(snapshot.name)

    def find(
        self,
        prompt: bytes,
        conversation_id: str | None,
        *,
        at_least: int = 0,
        whole: bool = False,
        adapters: str = "",
    ) -> PrefixMatch | None:
        """The snapshot that shares the longest prefix with a packed prompt.

        The prefix has `at_least` so many tokens, and at least one. Among equals the conversation's own
        snapshot is preferred, then the most recently used one. With `whole`, the snapshot must be a prefix of
        the prompt as a whole. It was decoded with these `adapters`.
        """
        best: Snapshot | None = None
        most = max(at_least, 1) - 1
        for snapshot in self._by_preference(conversation_id):
            if snapshot.adapters != adapters:
                continue
            more = (most + 1) * TOKEN_BYTES
            if len(snapshot.tokens) < more or snapshot.tokens[:more] != prompt[:more]:
                continue
            shared = _common_prefix(snapshot.tokens, prompt)
            if shared == snapshot.count or (shared >= snapshot.min_prefix and not whole):
                best, most = snapshot, shared
        return None if best is None else PrefixMatch(most, best.count, best)

    def _by_preference(self, conversation_id: str | None) -> Iterator[Snapshot]:
        if (own := self.of_conversation(conversation_id)) is not None:
            yield own
        yield from reversed(self._snapshots.values())


def _common_prefix(left: bytes, right: bytes) -> int:
    """The length of the common prefix of two packed token lists, in tokens."""
    low, high = 0, min(len(left), len(right)) // TOKEN_BYTES
    if left[: high * TOKEN_BYTES] == right[: high * TOKEN_BYTES]:
        return high
    while low + 1 < high:  # the first `low` are the same, the first `high` are not
        middle = (low + high) // 2
        part = slice(low * TOKEN_BYTES, middle * TOKEN_BYTES)
        if left[part] == right[part]:
            low = middle
        else:
            high = middle
    return low
