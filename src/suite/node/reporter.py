"""Appends a node's errors to the log in the background, so that the code that failed does not wait."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from suite.errors import SuiteError
from suite.identity import Clock
from suite.log import Log
from suite.messages.events import Severity
from suite.node.error_counts import Due, ErrorCounts, Kind
from suite.process_log import Entry
from suite.redaction import redacted
from suite.ticks import tick_or

logger = logging.getLogger("suite.node")

MESSAGE_CHARACTERS: Final = 2000
LOOK_SECONDS: Final = 1.0
LAST_SECONDS: Final = 0.5
"""How long the end of the node waits for the log to take what was counted."""


class Reporter:
    """Reports the errors of a node."""

    def __init__(self, log: Log, node: str, *, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._counts = ErrorCounts(node)
        self._late: set[Kind] = set()
        """Kinds of which an event is tried again, as the log took none; said once for each."""
        self._lock = threading.RLock()  # a destructor may log while it is held
        self._thread = threading.get_ident()
        self._added = anyio.Event()

    def report(
        self,
        error_type: str,
        message: str,
        severity: Severity = "error",
        *,
        model_id: str = "",
        cause: str = "",
    ) -> None:
        """Have an error appended to the log, in whatever thread. Never waits or raises.

        `cause` tells errors of one type apart, which are counted by themselves then. Must contain no prompt,
        answer or secret.
        """
        kind = Kind(error_type, severity, model_id, cause)
        with self._lock:
            has_room = self._counts.add(kind, redacted(message)[:MESSAGE_CHARACTERS], self._clock())
        if not has_room:
            logger.error("%s is not reported in the log: %s", error_type, message)
        if threading.get_ident() == self._thread:
            self._added.set()

    async def run(self) -> None:
        """Append what was reported, until cancelled.

        Unforeseen exceptions are reported too that this process or that of a model logs meanwhile.
        """
        with self._hearing_log():
            try:
                while True:
                    await self._append_due()
                    await tick_or(self._added, LOOK_SECONDS)
            finally:
                with anyio.move_on_after(LAST_SECONDS, shield=True):
                    await self._append_due(is_last=True)

    async def _append_due(self, *, is_last: bool = False) -> None:
        self._added = anyio.Event()
        with self._lock:
            all_due = tuple(self._counts.due(self._clock(), is_last=is_last))
        for due in all_due:
            await self._append(due)

    async def _append(self, due: Due) -> None:
        """Append an event. One that the log does not take stays due.

        So does one whose append is cancelled: at the end of a node errors may be counted twice, and none is
        left out.
        """
        try:
            await self._log.append(due.event)
        except SuiteError as error:
            if due.kind not in self._late:
                self._late.add(due.kind)
                logger.error(
                    "%s is not reported in the log yet (%s): %s",
                    due.event.error_type,
                    error.message,
                    due.event.message,
                )
            return
        self._late.discard(due.kind)
        with self._lock:
            self._counts.told(due)

    @contextmanager
    def _hearing_log(self) -> Iterator[None]:
        handler = _UnforeseenErrors(self)
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)


class _UnforeseenErrors(logging.Handler):
    """Reports what is logged as an error together with an exception: nobody has foreseen it."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.ERROR)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        """Report a record, unless it cannot be read: the code that logs it must not fail by that."""
        try:
            self._report(record)
        except Exception:
            self.handleError(record)

    def _report(self, record: logging.LogRecord) -> None:
        entry = Entry.of(record)
        if entry.exception:
            raised, place = entry.raised
            message = f"{entry.message} ({raised}): the log of this process says where"
            self._reporter.report(
                SuiteError.code, message, model_id=entry.model_id, cause=f"{raised} {place}"
            )
