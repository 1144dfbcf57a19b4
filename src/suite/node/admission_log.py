"""Appends what became of requests that did not get their model at once (`outcomes`).

The requests do not wait for it. What the log does not take now is kept, with what comes meanwhile counted
together, and is appended as soon as it does.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

import anyio

from suite.errors import InvalidRequest, SuiteError, TooLarge
from suite.identity import NewId
from suite.messages.events import AdmissionEvent
from suite.node.admission import Admission
from suite.node.journal import Journal
from suite.ticks import tick

logger = logging.getLogger("suite.node")

INTERVAL_SECONDS: Final = 1.0
LAST_SECONDS: Final = 1.0
"""How long the stop of a node takes for this at most."""


class AdmissionLog:
    """Writes the outcomes of one node's admission."""

    def __init__(self, admission: Admission, journal: Journal, new_id: NewId) -> None:
        self._admission = admission
        self._journal = journal
        self._new_id = new_id
        self._pending: deque[tuple[str, AdmissionEvent]] = deque()
        """What is being appended, each with its id; at most a few events for each model."""
        self._writing = anyio.Lock()

    async def run(self) -> None:
        """Append what is due every second, until cancelled."""
        while True:
            await tick(INTERVAL_SECONDS)
            await self._write(is_last=False)

    async def close(self) -> None:
        """Append what is left, as far as the log takes it."""
        with anyio.move_on_after(LAST_SECONDS):
            await self._write(is_last=True)

    async def _write(self, *, is_last: bool) -> None:
        async with self._writing:
            while self._pending or self._take(is_last):
                event_id, event = self._pending[0]
                try:
                    await self._journal.note(event, event_id)
                except (TooLarge, InvalidRequest) as error:  # it will never be taken
                    logger.error("%s is left out of the log: %s", event.type, error.message)
                except SuiteError as error:
                    logger.debug("%s is not in the log yet: %s", event.type, error.message)
                    return
                self._pending.popleft()

    def _take(self, is_last: bool) -> bool:
        """Take over what is due, one wait at a time. Returns whether there was anything."""
        due = self._admission.outcomes_due(is_last=is_last)
        self._pending.extend((self._new_id(), event) for event in due)
        return bool(due)
