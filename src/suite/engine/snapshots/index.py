"""Which snapshots there are, and which of them begins as a prompt does."""

from __future__ import annotations

from collections.abc import Iterator

from suite.engine.snapshots.file import TOKEN_BYTES
from suite.engine.snapshots.snapshot import Found, Snapshot


class SnapshotIndex:
    """Snapshots in the order of their last use, at most one of a conversation."""

    def __init__(self) -> None:
        self._snapshots: dict[str, Snapshot] = {}
        """By name."""
        self._of_conversation: dict[str, Snapshot] = {}

    def __len__(self) -> int:
        return len(self._snapshots)

    def __iter__(self) -> Iterator[Snapshot]:
        """Those that there are at this moment, the one used last at the end."""
        return iter([*self._snapshots.values()])

    def __contains__(self, snapshot: Snapshot) -> bool:
        return self._snapshots.get(snapshot.name) is snapshot

    def named(self, name: str) -> Snapshot | None:
        """The one of this name."""
        return self._snapshots.get(name)

    def of(self, conversation_id: str | None) -> Snapshot | None:
        """A conversation's."""
        return None if conversation_id is None else self._of_conversation.get(conversation_id)

    def add(self, snapshot: Snapshot) -> None:
        """Know it as the one that was used last."""
        self._snapshots[snapshot.name] = snapshot
        if snapshot.conversation_id is not None:
            self._of_conversation[snapshot.conversation_id] = snapshot

    def remove(self, snapshot: Snapshot) -> None:
        """Know it no more."""
        del self._snapshots[snapshot.name]
        if snapshot.conversation_id is not None:
            del self._of_conversation[snapshot.conversation_id]

    def use(self, snapshot: Snapshot, at: float) -> None:
        """Note that it was used just now (epoch seconds)."""
        snapshot.used = at
        self._snapshots[snapshot.name] = self._snapshots.pop(snapshot.name)

    def find(
        self, prompt: bytes, conversation_id: str | None, *, at_least: int = 0, whole: bool = False
    ) -> Found | None:
        """The one with most tokens in common with a packed prompt, `at_least` so many and one anyway.

        Of equals the conversation's own, then the one used last. `whole`: only one of which all tokens are
        the prompt's.
        """
        best: Snapshot | None = None
        most = max(at_least, 1) - 1
        for snapshot in self._by_preference(conversation_id):
            more = (most + 1) * TOKEN_BYTES
            if len(snapshot.tokens) < more or snapshot.tokens[:more] != prompt[:more]:
                continue
            shared = _common(snapshot.tokens, prompt)
            if shared == snapshot.count or (shared >= snapshot.shortest and not whole):
                best, most = snapshot, shared
        return None if best is None else Found(most, best.count, best)

    def _by_preference(self, conversation_id: str | None) -> Iterator[Snapshot]:
        if (own := self.of(conversation_id)) is not None:
            yield own
        yield from reversed(self._snapshots.values())


def _common(left: bytes, right: bytes) -> int:
    """How many tokens two packed lists have in common at their beginning."""
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
