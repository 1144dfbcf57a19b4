"""Idempotent appends: an entry with a client's id is stored once, and never with other content.

The server recognises an id for two minutes, the read model as long as it has the row. The read model is
hardly ever a minute behind, and is waited for when it is. So at any time at least one of them recognises the
id (ADR 12).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from suite.errors import Conflict, TooLarge
from suite.log import Unreadable
from suite.messages.events import Event
from suite.node.node import Node
from suite.projections.projection import Database
from suite.projections.projector import Projector

E = TypeVar("E", bound=Event)

ATTACHMENT_BYTES = 256 * 1024
"""The largest context or comparison data, as JSON: a reply with one of them must fit into one message."""

_encode = msgspec.json.Encoder(order="deterministic").encode


async def append_once(
    node: Node,
    projector: Projector,
    event: E,
    *,
    entry_id: str,
    find: Callable[[Database, str], Awaitable[tuple[Event, int] | None]],
    is_same: Callable[[E, E], bool],
    correlation_id: str,
) -> int:
    """Append the event unless it is stored already. Returns the sequence of the stored event.

    ``find`` looks the id up in the read model. Raises Conflict when the id was used for other content, and
    ReadModelBehind when that cannot be found out.
    """
    async with projector.reading(await projector.wait_current()) as db:
        found = await find(db, entry_id)
    if found is None:
        seq = await node.log.append(event, id=message_id(event, entry_id), correlation_id=correlation_id)
        stored = await node.log.at(seq)
        if isinstance(stored, Unreadable):
            raise Conflict(
                f"{entry_id!r} is taken by message {seq} of the log, which is no event of the suite "
                f"({stored.reason}): choose another id"
            )
        found = (stored.data if stored is not None else event), seq
    before, seq = found
    if not (isinstance(before, type(event)) and is_same(before, event)):
        raise Conflict(
            f"the id {entry_id!r} was used for other content before (event {seq}): "
            "choose another id, or send the same content"
        )
    return seq


def message_id(event: Event, name: object) -> str:
    """The message id by which the server recognises the event. The fact comes first, so that ids of different
    facts cannot collide."""
    return f"{event.aggregate}.{event.fact}:{name}"


def attachment(value: object, field: str) -> str | None:
    """Text as it is, or an object as canonical JSON. Raises TooLarge."""
    if value is None:
        return None
    text = value if isinstance(value, str) else _encode(value).decode()
    if (size := len(_encode(text))) > ATTACHMENT_BYTES:
        raise TooLarge(
            f"field '{field}': {size} bytes are more than the maximum of {ATTACHMENT_BYTES}: send less, "
            "or a reference to the data"
        )
    return text
