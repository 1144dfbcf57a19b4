"""Appends a node's errors to the log in the background, so that the code that failed does not wait."""

from __future__ import annotations

import logging

import anyio
import anyio.abc

from suite.errors import SuiteError
from suite.log import Log
from suite.messages.events import ErrorReported, Severity

logger = logging.getLogger("suite.node")

WAITING: int = 256
"""How many reports may wait for the log; further ones go only to the process's own log."""
MESSAGE_CHARACTERS: int = 2000


class Reporter:
    """Reports the errors of a node."""

    def __init__(self, log: Log, node: str) -> None:
        self._log = log
        self._node = node
        self._put, self._take = anyio.create_memory_object_stream[ErrorReported](WAITING)

    def report(self, error_type: str, message: str, severity: Severity = "error") -> None:
        """Queue an error for the log. Never waits or raises. Must contain no prompt, answer or secret."""
        event = ErrorReported(
            node=self._node,
            error_type=error_type,
            message=message[:MESSAGE_CHARACTERS],
            severity=severity,
        )
        try:
            self._put.send_nowait(event)
        except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
            logger.error("%s is not reported in the log: %s", error_type, message)

    async def run(self) -> None:
        """Append queued errors one after the other, until cancelled."""
        with self._put, self._take:
            async for event in self._take:
                try:
                    await self._log.append(event)
                except SuiteError as error:
                    logger.error(
                        "%s is not reported in the log (%s): %s",
                        event.error_type,
                        error.message,
                        event.message,
                    )
