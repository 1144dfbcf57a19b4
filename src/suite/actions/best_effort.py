"""Best-effort reads for status actions: they never wait long for a read model, and may be a little behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

from suite.errors import ReadModelBehind, ReadModelUnavailable
from suite.projections.projection import Database
from suite.projections.projector import Projector

PATIENCE_SECONDS: Final = 0.25
"""How long to wait for the node's own last event, which usually arrives within a few milliseconds."""


@asynccontextmanager
async def best_effort_read(projector: Projector, own_seq: int) -> AsyncIterator[Database | None]:
    """Open a read model, with the events up to ``own_seq`` if they arrive in time; None if it is unavailable.

    Raises ReadModelUnavailable when the file turns out to be unreadable.
    """
    with anyio.move_on_after(PATIENCE_SECONDS if projector.problem is None else 0):
        await _is_ready(projector, own_seq)
    readable = False
    with anyio.move_on_after(0):  # the answer is known at once, or this is left before it waits
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
