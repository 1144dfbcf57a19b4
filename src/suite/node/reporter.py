"""Writes what goes wrong in a node into the log, without holding up what it went wrong in."""

from __future__ import annotations

import logging

import anyio
import anyio.abc

from suite.errors import SuiteError
from suite.log import Log
from suite.messages.events import ErrorReported, Severity

logger = logging.getLogger("suite.node")

WAITING: int = 256
"""Reports that wait for the log; those above are in the process's own log only."""
MESSAGE_CHARACTERS: int = 2000


class Reporter:
    """A node's way to report errors."""

    def __init__(self, log: Log, node: str) -> None:
        self._log = log
        self._node = node
        self._put, self._take = anyio.create_memory_object_stream[ErrorReported](WAITING)

    def report(self, error_type: str, message: str, severity: Severity = "error") -> None:
        """Have it written down; never waits and never raises. No prompt, answer or secret may be in it."""
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
        """Write them down one after the other."""
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
