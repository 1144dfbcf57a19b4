"""What all facts have, and the register of their types."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all facts: each has the name of its aggregate, its own name, and a versioned type."""

    aggregate: ClassVar[str]
    fact: ClassVar[str]
    type: ClassVar[str]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the aggregate, in the order of the subject."""
        raise NotImplementedError


class UnknownEvent(Event, frozen=True, kw_only=True):
    """A fact of a later version than this reader knows, with its unread body."""

    body: bytes


REGISTRY: dict[str, type[Event]] = {}
E = TypeVar("E", bound=Event)


def event(aggregate: str, fact: str, version: int = 1) -> Callable[[type[E]], type[E]]:
    """Give a fact its type name, ``suite.<aggregate>.<fact>.v<version>``, and register it."""

    def register(kind: type[E]) -> type[E]:
        kind.aggregate, kind.fact = aggregate, fact
        kind.type = f"suite.{aggregate}.{fact}.v{version}"
        REGISTRY[kind.type] = kind
        return kind

    return register
