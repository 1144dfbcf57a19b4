"""Names that only one may have at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from suite.bus.claims import Claims, Taken
from suite.bus.connection import Connection
from support.nats import mirrored_nats


@asynccontextmanager
async def two(directory: Path) -> AsyncIterator[tuple[Claims, Claims]]:
    """The claims of two processes."""
    async with (
        mirrored_nats(directory) as server,
        Connection.open(server.access, name="one") as one,
        Connection.open(server.access, name="other") as other,
    ):
        yield Claims(one, "NAMES", seconds=60), Claims(other, "NAMES", seconds=60)


async def test_of_those_who_take_a_name_at_once_one_gets_it(tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        answers: list[Taken | bytes] = []

        async def take(claims: Claims, value: bytes) -> None:
            answers.append(await claims.take("a.b", value))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take, one, b"one")
            tasks.start_soon(take, other, b"other")
        taken = [each for each in answers if isinstance(each, Taken)]
        (holder,) = [each for each in answers if isinstance(each, bytes)]
        assert len(taken) == 1
        assert holder in (b"one", b"other")
        await one.release(taken[0])
        assert isinstance(await other.take("a.b", b"other"), Taken)


async def test_a_name_is_taken_over_only_from_the_one_who_is_meant(tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        await one.take("name", b"one")
        assert await other.take_over("name", b"other", b"somebody else") == b"one"
        assert isinstance(await other.take_over("name", b"other", b"one"), Taken)
        assert await one.take("name", b"one") == b"other"


async def test_a_name_that_was_released_meanwhile_is_taken_over_too(tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        taken = await one.take("name", b"one")
        assert isinstance(taken, Taken)
        await one.release(taken)
        assert isinstance(await other.take_over("name", b"other", b"one"), Taken)
