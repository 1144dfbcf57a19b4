"""Facts about errors that no other fact describes."""

from __future__ import annotations

from typing import Literal

from suite.messages.events.base import Event, event

Severity = Literal["info", "warning", "error", "critical"]


@event("error", "reported")
class ErrorReported(Event, frozen=True, kw_only=True, omit_defaults=True):
    """An error in a node that no other fact describes.

    The first of a kind stands alone; those of that kind that follow soon are counted together.
    """

    node: str
    error_type: str
    """The error's stable code."""
    message: str
    """The newest one's."""
    severity: Severity
    model_id: str = ""
    """The model that it is about; empty: none, or not known."""
    count: int = 1
    """How many errors this stands for."""
    within_seconds: float = 0.0
    """In what time they happened; 0 for a single one."""

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.severity,)
