"""What a read model is: which events it folds, into which tables of its SQLite file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, TypeAlias

import aiosqlite

from suite.messages.envelope import Recorded

Database: TypeAlias = aiosqlite.Connection
"""What queries are asked of, in the words of those that may not know SQLite."""


class Projection(ABC):
    """A fold of some aggregates' events. It has no state of its own: all of it is in the tables.

    The same events give the same rows, however they come in batches; the one who calls sees to it that each
    comes once and in order, and keeps the checkpoint in the same transaction.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised with every change of the tables or of the fold: a file of another version is folded anew."""
    aggregates: ClassVar[tuple[str, ...]]
    """Whose events it folds."""
    schema: ClassVar[str]
    """The statements that make its tables."""

    @abstractmethod
    async def fold(self, db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
        """Bring events into the tables, inside of a transaction that is open. Never commits."""

    async def expire(self, db: aiosqlite.Connection, now: datetime) -> None:  # noqa: B027 - most keep all
        """Remove the rows that have expired, inside of a transaction that is open.

        Row by row it asks for `Recorded.expires`, never for the configuration, so that a read model that is
        folded anew has the same rows.
        """
