"""Async resources that several tests of a module share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


@asynccontextmanager
async def lasting(resource: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a resource in one task of its own: a fixture may begin and end in two, and task groups
    must not.
    """
    entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    is_over = asyncio.Event()

    async def hold() -> None:
        async with resource as value:
            entered.set_result(value)
            await is_over.wait()

    holding = asyncio.create_task(hold())
    try:
        await asyncio.wait((entered, holding), return_when=asyncio.FIRST_COMPLETED)
        if not entered.done():
            await holding
        yield entered.result()
    finally:
        is_over.set()
        await holding
