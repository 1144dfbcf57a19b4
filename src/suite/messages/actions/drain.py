"""Taking a node out of service, and back into it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from suite.messages.actions.base import Reply, Request


class DrainNodeRequest(Request, frozen=True, kw_only=True):
    """Give the named node no new work, so that it can be stopped without a failed request.

    Its pinned models and those that were used lately are loaded on other nodes first, where these have room.
    """

    undo: bool = False
    """True: the node takes work again."""
    wait: bool = True
    """False: reply as soon as it has begun."""
    wait_ms: Annotated[int, Meta(ge=0, le=86_400_000)] = 900_000
    """How long to wait. If the node still has something to do then, the error `timeout` says what; the drain
    goes on."""
    stream: bool = False
    """True: send what it still does until the final reply."""


class MovedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the drained node, and what became of it."""

    model_id: str
    node: str | None
    """The node that has it loaded now; null if none has."""
    problem: str | None = None
    """Why no other node has it loaded."""


class DrainNodeReply(Reply, frozen=True, kw_only=True):
    """The node has nothing to do any more or, with ``wait: false``, gets nothing new soon."""

    node: str
    draining: bool
    message: str
    seq: int | None
    """The sequence of the event; null if nothing has changed."""
    models: tuple[MovedModel, ...] = ()
    """The pinned models, and those that were used lately, as far as they are settled."""
