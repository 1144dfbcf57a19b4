"""What queries have in common: a window of time, and a page of the rows in it."""

from __future__ import annotations

from typing import TypedDict

from suite.messages.actions.base import Moment


class Window(TypedDict, total=False):
    """A window of time. What it is without a ``since`` or ``until``, each action documents."""

    since: Moment | None
    until: Moment | None
    """Exclusive."""
    min_seq: int
    """Answer only when the read model has this event: the ``seq`` of the reply to a write."""


class Page(Window, total=False):
    """A page of the rows in a window."""

    limit: int
    cursor: str | None
    """``next_cursor`` of the page before."""
