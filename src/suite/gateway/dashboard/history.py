"""The log, a page at a time: the newest events first, as people look at it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from suite.client import Client
from suite.gateway.dashboard.told import event_document
from suite.messages.envelope import Recorded

MOST_READ: Final = 2_000
"""How many events are read at most to find the newest of them."""
_FIRST_WINDOW: Final = 2
_WIDER: Final = 8
"""How much more of the log is looked through when it had too few that match."""

_LAST: Final = 2**63 - 1


class EventsWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events: the parameters of the address, all of them texts there."""

    filter: str | None = None
    """As ``suite events`` has it: aggregate, ids, fact."""
    model_id: str | None = None
    """Instead of a filter: those about this model."""
    before: Annotated[int, Meta(ge=1, le=_LAST)] = _LAST
    """Only those before this one; with ``after``, it counts for nothing."""
    after: Annotated[int, Meta(ge=0, le=_LAST)] | None = None
    """The first after this one, instead of the newest."""
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 200


class EventsPage(msgspec.Struct, frozen=True, kw_only=True):
    """Events, the newest first."""

    events: tuple[Mapping[str, Any], ...]
    last_seq: int
    """How far the log goes."""
    has_more: bool
    """Whether there are more that match: before these or, with ``after``, behind them."""


async def events_page(client: Client, wanted: EventsWanted) -> EventsPage:
    """The page of events that is wanted. Raises InvalidRequest, and what reading the log raises."""
    last_seq = await client.last_seq()
    if wanted.after is not None:
        found = await _first(client, wanted, wanted.after)
    else:
        found = await _newest(client, wanted, min(wanted.before, last_seq + 1))
    kept = found[: wanted.limit]
    return EventsPage(
        events=tuple(map(event_document, sorted(kept, key=lambda event: -event.seq))),
        last_seq=last_seq,
        has_more=len(found) > wanted.limit,
    )


async def _first(client: Client, wanted: EventsWanted, after: int) -> list[Recorded]:
    """The first that match behind a sequence, one more than wanted; the oldest first."""
    found: list[Recorded] = []
    async with _matching(client, wanted, after=after) as events:
        async for event in events:
            found.append(event)
            if len(found) > wanted.limit:
                break
    return found


async def _newest(client: Client, wanted: EventsWanted, end: int) -> list[Recorded]:
    """The newest that match before a sequence, one more than wanted; the newest first.

    The log is read forwards only. So a window at its end is widened until it has enough, and narrowed when
    it has far more: however long the log and however rare the events, little of it is read.
    """
    few, many, window = 0, end + 1, min(_FIRST_WINDOW * wanted.limit, end)
    while True:
        found = await _in_window(client, wanted, end - window, end)
        if found is None:
            many = window
        elif len(found) > wanted.limit or window >= many - 1:
            return found
        else:
            few = window
        window = min(window * _WIDER, end) if many > end else (few + many) // 2


async def _in_window(client: Client, wanted: EventsWanted, after: int, end: int) -> list[Recorded] | None:
    """Those that match behind one sequence and before another, the newest first; None: too many to read."""
    found: deque[Recorded] = deque(maxlen=wanted.limit + 1)
    read = 0
    async with _matching(client, wanted, after=max(after - 1, 0)) as events:
        async for event in events:
            if event.seq >= end:
                break
            if (read := read + 1) > MOST_READ + wanted.limit:
                return None
            found.appendleft(event)
    return list(found)


def _matching(
    client: Client, wanted: EventsWanted, *, after: int
) -> aclosing[AsyncGenerator[Recorded, None]]:
    return aclosing(client.events(wanted.filter, model_id=wanted.model_id, after=after))
