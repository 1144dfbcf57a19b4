"""Work that lives as long as a block, with an owner that waits for it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup

logger = logging.getLogger("suite")

Spawn: TypeAlias = Callable[[Callable[[], Coroutine[Any, Any, object]]], None]
"""Starts work in a task group of somebody else, which may not have begun yet when this is passed on."""


@asynccontextmanager
async def background() -> AsyncIterator[TaskGroup]:
    """A task group for what runs beside the body: cancelled and waited for when the body ends.

    The body's exception comes out as it is and not in a group, so that ``except Conflict`` works around
    it. A task that fails cancels the body, and its exception comes out as it is when it is the only one.
    """
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            except Exception as error:
                failure = error
            tasks.cancel_scope.cancel()
    except ExceptionGroup as group:
        if failure is None:
            raise _alone(group) from None
        logger.warning("beside %r there was %r", failure, _alone(group))
    if failure is not None:
        raise failure


def _alone(group: ExceptionGroup[Exception]) -> Exception:
    """The one exception in nested groups of one; the group itself when there are more."""
    error: Exception = group
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
