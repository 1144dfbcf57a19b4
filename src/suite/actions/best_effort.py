"""A look into a read model, for what tells how things stand: never held up, perhaps a little behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

from suite.errors import ReadModelBehind, ReadModelUnavailable
from suite.projections.projection import Database
from suite.projections.projector import Projector

PATIENCE_SECONDS: Final = 0.25
"""For what the node itself has just written, which is mostly there in a few milliseconds."""


@asynccontextmanager
async def best_effort_read(projector: Projector, own_seq: int) -> AsyncIterator[Database | None]:
    """A connection for a query of what there is, up to ``own_seq`` if that is not far; None without any.

    Raises ReadModelUnavailable when the file turns out to be unreadable.
    """
    with anyio.move_on_after(PATIENCE_SECONDS if projector.problem is None else 0):
        await _is_ready(projector, own_seq)
    readable = False
    with anyio.move_on_after(0):  # it is known at once, or this is left before it waits
        readable = await _is_ready(projector, 0)
    if not readable:
        yield None
        return
    async with projector.reading() as db:
        yield db


async def _is_ready(projector: Projector, seq: int) -> bool:
    try:
        await projector.wait_for(seq)
    except (ReadModelBehind, ReadModelUnavailable):
        return False
    return True
