"""What a policy of prediction is, and what it may learn from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol


class History(Protocol):
    """The usage in the log, as far as policies need it; one that needs more adds a question here."""

    async def counts(self, since: datetime, limit: int) -> Sequence[tuple[str, int]]:
        """The models used since then with how often, the most used first, then by id."""


class Policy(Protocol):
    """A rule that says which models are likely to be used next."""

    @property
    def name(self) -> str:
        """What replies call it."""

    async def predict(self, history: History, *, now: datetime, limit: int) -> list[str]:
        """At most ``limit`` models, the likeliest first; the same history and time give the same answer."""
