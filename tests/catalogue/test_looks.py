"""Many who want to see the same wait for one look; nobody gets what was seen before he asked."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from threading import Event

import anyio
import pytest

from suite.catalogue.looks import Looks

DRIVE = Path("/drive")


async def test_those_who_ask_at_once_share_a_look_that_begins_after_they_asked() -> None:
    looks, numbers, go_on = Looks(), count(1), Event()
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def what() -> int:
        number = next(numbers)
        assert go_on.wait(20)
        return number

    async def ask(key: str) -> None:
        seen[key].append(await looks.look(DRIVE, key, what))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, "a")
        await anyio.wait_all_tasks_blocked()  # it looks
        for _ in range(500):
            tasks.start_soon(ask, "a")
            tasks.start_soon(ask, "b")
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    assert seen == {"a": [1] + [2] * 500, "b": [3] * 500}
    assert await looks.look(DRIVE, "a", what) == 4


async def test_who_leaves_takes_no_look_from_those_who_wait_for_it() -> None:
    looks, numbers, go_on = Looks(), count(1), Event()
    seen: list[int] = []

    def what() -> int:
        number = next(numbers)
        assert go_on.wait(20)
        return number

    async def ask() -> None:
        seen.append(await looks.look(DRIVE, "a", what))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as leaving:
            leaving.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            for _ in range(3):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        go_on.set()
    assert sorted(seen) == [1, 2, 3, 4]


async def test_each_sees_its_own_failure() -> None:
    looks, failures = Looks(), count(1)

    def what() -> None:
        raise OSError(next(failures))

    async def ask() -> None:
        with pytest.raises(OSError, match=r"\d"):
            await looks.look(DRIVE, "a", what)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
    assert next(failures) == 6
