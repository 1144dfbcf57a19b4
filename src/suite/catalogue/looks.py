"""Looks at files in threads, in each directory one at a time: a drive that hangs costs one thread.

A thousand that ask for one model at once cost two looks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import anyio
import anyio.to_thread

LOOK_SECONDS: Final = 5.0
"""How long a look may take until its drive counts as one that does not answer."""

T = TypeVar("T")


class _Look:
    """A look that has not begun yet, which others may wait for."""

    def __init__(self) -> None:
        self.is_over = anyio.Event()
        self.seen: tuple[Any, ...] = ()
        """Empty if it failed, or whoever wanted it has left."""


class Looks:
    """The looks of one node, by model directory."""

    def __init__(self) -> None:
        self._turns: dict[Path, anyio.Lock] = {}
        self._looking: set[Path] = set()
        """Where a thread looks now, maybe for one who no longer waits."""
        self._due: dict[tuple[Path, Hashable], _Look] = {}

    async def look(self, directory: Path, key: Hashable, what: Callable[[], T]) -> T:
        """Call what blocks on the drive of a directory, in a thread.

        Who wants to see the same, by its `key`, shares the next look: each gets what was seen after it asked.
        Raises TimeoutError after `LOOK_SECONDS`, and at once while an earlier look has not come back. The
        wait for one's turn does not count: a drive that is slow answers all.
        """
        due = self._due.get((directory, key))
        if due is not None:
            await due.is_over.wait()
            if due.seen:
                return cast(T, due.seen[0])
        own = _Look()
        self._due.setdefault((directory, key), own)
        try:
            async with self._turns.setdefault(directory, anyio.Lock()):
                self._forget(directory, key, own)
                own.seen = (await self._look_now(directory, what),)
                return cast(T, own.seen[0])
        finally:
            self._forget(directory, key, own)
            own.is_over.set()

    def _forget(self, directory: Path, key: Hashable, look: _Look) -> None:
        """Let nobody else wait for a look: it begins, or never will."""
        if self._due.get((directory, key)) is look:
            del self._due[directory, key]

    async def _look_now(self, directory: Path, what: Callable[[], T]) -> T:
        if directory in self._looking:
            raise TimeoutError
        with anyio.fail_after(LOOK_SECONDS):
            return await anyio.to_thread.run_sync(self._look, directory, what, abandon_on_cancel=True)

    def _look(self, directory: Path, what: Callable[[], T]) -> T:
        self._looking.add(directory)
        try:
            return what()
        finally:
            self._looking.discard(directory)
