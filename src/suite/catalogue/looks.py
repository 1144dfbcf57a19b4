"""Looks at files in threads, in each directory one at a time: a drive that hangs costs one thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import anyio
import anyio.to_thread

LOOK_SECONDS: Final = 5.0
"""How long a look may take until its drive counts as one that does not answer."""

T = TypeVar("T")


class Looks:
    """The looks of one node, by model directory."""

    def __init__(self) -> None:
        self._turns: dict[Path, anyio.Lock] = {}
        self._looking: set[Path] = set()
        """Where a thread looks now, maybe for one who no longer waits."""

    async def look(self, directory: Path, what: Callable[[], T]) -> T:
        """Call what blocks on the drive of a directory, in a thread.

        Raises TimeoutError after `LOOK_SECONDS`, and at once while an earlier look has not come back. The
        wait for one's turn does not count: a drive that is slow answers all.
        """
        async with self._turns.setdefault(directory, anyio.Lock()):
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
