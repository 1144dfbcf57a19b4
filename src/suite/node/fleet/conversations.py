"""Which node each conversation came to last, of the newest ones (ADR 62)."""

from __future__ import annotations

from typing import Final

LEAST_KEPT: Final = 1_000_000
"""So many conversations are known at least, and twice as many at most: 75 to 150 MB if there are so many."""


class Conversations:
    """The nodes of conversations by their hashes.

    There are two generations: when the young one is full it becomes the old one, and what was old is
    forgotten. So nothing has to be kept in order, which would take twice the memory.
    """

    def __init__(self, least_kept: int = LEAST_KEPT) -> None:
        self._least_kept = least_kept
        self._young: dict[int, str] = {}
        self._old: dict[int, str] = {}

    def note(self, conversation: int, node: str) -> None:
        """Note that a conversation has come to a node."""
        self._young.pop(conversation, None)  # so that it is the newest again
        self._young[conversation] = node
        if len(self._young) >= self._least_kept:
            self._young, self._old = {}, self._young

    def node_of(self, conversation: int) -> str:
        """The node that a conversation came to last; empty if it is not known."""
        return self._young.get(conversation) or self._old.get(conversation, "")
