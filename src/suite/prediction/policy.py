"""The interface of prediction policies, and of the history that they learn from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol


class History(Protocol):
    """The usage in the log, as far as policies need it; a policy that needs more adds a query here."""

    async def counts(self, since: datetime, limit: int) -> Sequence[tuple[str, int]]:
        """The models used since a time and how often, most used first, then by id."""


class Policy(Protocol):
    """A rule that predicts which models will be used next."""

    @property
    def name(self) -> str:
        """Its name in replies."""

    async def predict(self, history: History, *, now: datetime, limit: int) -> list[str]:
        """At most ``limit`` models, the likeliest first. Deterministic for the same history and time."""
