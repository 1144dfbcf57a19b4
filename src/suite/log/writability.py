"""Whether the log can be written: a circuit breaker, fed by the server's answers and by the disk watcher.

nats-server refuses events when JetStream's storage limit is reached. After a failed write to its disk it does
not answer at all: the stream then stores nothing until the server is restarted, though reads still work.
Waiting for an answer that will not come is useless, so while the log is known not to store events, appends
are refused before they are sent. docs/adr/0021 says what was tried.
"""

from __future__ import annotations

import time
from typing import Final

from suite.bus.connection import Connection
from suite.errors import LogNotWritable

TRIAL_SECONDS: Final = 10.0
"""How often one append is sent as a trial all the same: a leader elsewhere in a cluster may have space."""
REFUSED_TRIAL_SECONDS: Final = 1.0
"""The interval where the server refuses at once, so that a trial costs nothing."""

ADVICE: Final = (
    "see to the space that NATS has for JetStream, and restart nats-server if it does not go on by itself"
)


class Writability:
    """What this process knows about whether the log can be written."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._space: str | None = None
        self._failure: str | None = None
        self._failed_on = 0
        self._trial_seconds = TRIAL_SECONDS
        self._trial_at = 0.0
        self.advice = ADVICE
        """The end of the error messages: what the operator can do."""

    @property
    def problem(self) -> str | None:
        """Why the log stores no events, and what to do; None while it does."""
        reason = self._space or self.failure
        if reason is None:
            return None
        return f"the log takes no events: {reason}; {self.advice}"

    @property
    def is_short(self) -> bool:
        """Whether the server's disk is known to have too little space."""
        return self._space is not None

    @property
    def failure(self) -> str | None:
        """The failure that the server's answers show, if any. A new connection clears it: the server may have
        been restarted.
        """
        if self._failure is not None and self._connection.connections != self._failed_on:
            self._failure = None
        return self._failure

    def note_space(self, shortage: str | None) -> None:
        """Record a shortage of space on the server's disk, None if there is enough.

        During a shortage only essential events are stored.
        """
        self._space = shortage

    def note_write_failure(self) -> None:
        """Record that the server has processed an append without answering it."""
        self._note("NATS answers but stores nothing, as after a failed write to its disk", TRIAL_SECONDS)

    def note_refusal(self, answer: str) -> None:
        """Record that the server has refused an append for lack of storage."""
        self._note(f"NATS refuses them ({answer})", REFUSED_TRIAL_SECONDS)

    def _note(self, reason: str, trial_seconds: float) -> None:
        self._failure = reason
        self._failed_on = self._connection.connections
        self._trial_seconds = trial_seconds
        self._trial_at = time.monotonic() + trial_seconds

    def note_stored(self) -> None:
        """Record that the server has stored an event."""
        self._failure = None

    def require_space(self) -> None:
        """Raises LogNotWritable if the disk is too full for events that are not essential."""
        if self._space is not None:
            raise self.refusal()

    def require_working(self) -> None:
        """Raises LogNotWritable while the server does not store events, except for occasional trials."""
        if self.failure is None:
            return
        if time.monotonic() < self._trial_at:
            raise self.refusal()
        self._trial_at = time.monotonic() + self._trial_seconds

    def refusal(self) -> LogNotWritable:
        """The error for an append that was not sent."""
        return LogNotWritable(f"{self.problem or LogNotWritable.__doc__}; nothing was stored")
