"""What a checker found to be wrong."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal[
    "lost",
    "doubled",
    "reordered",
    "elsewhere",
    "log",
    "read model",
    "state",
    "process",
    "descriptor",
    "file",
    "lease",
    "health",
    "recovery",
]


class Finding(NamedTuple):
    """A promise that was not kept."""

    kind: Kind
    what: str

    def __str__(self) -> str:
        """As a line of a report."""
        return f"{self.kind}: {self.what}"
