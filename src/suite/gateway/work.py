"""What runs for requesters at the moment: it ends when they may have nothing any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from suite.errors import SuiteError
from suite.ticks import tick

RIGHTS_SECONDS: Final = 1.0
"""How soon that ends which a key has running that was revoked or has expired."""


class _Running:
    """What runs for one request."""

    def __init__(self, requester: str | None, scope: anyio.CancelScope) -> None:
        self.requester = requester
        self.refusal: SuiteError | None = None
        self._scope = scope

    def refuse(self, error: SuiteError) -> None:
        self.refusal = error
        self._scope.cancel()


class Work:
    """All that runs: answers, replays, and the pages that are open."""

    def __init__(self) -> None:
        self._running: set[_Running] = set()

    @contextmanager
    def of(self, requester: str | None) -> Iterator[None]:
        """Work for a requester during the block. Raises why it was ended, if it was."""
        with anyio.CancelScope() as scope:
            running = _Running(requester, scope)
            self._running.add(running)
            try:
                yield
            finally:
                self._running.discard(running)
        if running.refusal is not None:
            raise running.refusal

    def end(self, error: SuiteError) -> None:
        """Refuse all that runs."""
        for each in self._running:
            each.refuse(error.copy())

    async def watch(self, rights: Callable[[str | None], object]) -> None:
        """Refuse what runs for those for whom ``rights`` raises an error, until cancelled."""
        while True:
            await tick(RIGHTS_SECONDS)
            for each in self._running:
                try:
                    rights(each.requester)
                except SuiteError as error:
                    each.refuse(error)
