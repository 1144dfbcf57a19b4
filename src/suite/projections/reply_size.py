"""Cuts lists so that a reply fits into one NATS message: a shorter answer is better than none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from itertools import islice
from typing import TypeVar

import msgspec

from suite.projections.page import PAGE_BYTES

T = TypeVar("T", bound=msgspec.Struct)

_encode = msgspec.json.Encoder().encode


def as_many_as_fit(
    entries: Iterable[T],
    *,
    limit: int | None = None,
    room_bytes: int = PAGE_BYTES,
    key: Callable[[T], str] = lambda _: "",
) -> tuple[T, ...]:
    """The first entries, as many as fit into a NATS message with the rest of a reply; at least one.

    Entries after these are not asked for, so that making them costs nothing. `key` is what an entry stands
    under in the reply, if that is no list.
    """
    kept: list[T] = []
    size = 0
    for entry in islice(entries, limit):
        size += len(_encode(entry)) + len(_encode(key(entry))) + len(":,")
        if kept and size > room_bytes:
            break
        kept.append(entry)
    return tuple(kept)


def left_out(entries: Sized, kept: Sized, what: str) -> tuple[str, ...]:
    """A warning that some entries did not fit; empty if all did."""
    if not (count := len(entries) - len(kept)):
        return ()
    return (f"{count} {what} are left out: they do not fit into one reply, ask for fewer at a time",)
