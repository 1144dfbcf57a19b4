"""Whether the log takes events: a circuit breaker, fed by the server's answers and by who watches its disk.

nats-server refuses events when JetStream's storage limit is reached, and does not answer at all after a write
to its disk has failed: that stream then takes nothing until the server is restarted, though reads go on. An
append that waits for an answer which will not come is of no use to anybody, so while the log is known not to
take events they are refused before they are sent. docs/adr/0021 has what was tried.
"""

from __future__ import annotations

import time
from typing import Final

from suite.bus.connection import Connection
from suite.errors import LogNotWritable

TRIAL_SECONDS: Final = 10.0
"""How often one append is sent all the same: a leader elsewhere in a cluster may have space."""
REFUSED_TRIAL_SECONDS: Final = 1.0
"""The same where the server refuses at once, so that a trial costs nobody anything."""

ADVICE: Final = (
    "see to the space that NATS has for JetStream, and restart nats-server if it does not go on by itself"
)


class Writability:
    """What one process knows of it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._space: str | None = None
        self._failure: str | None = None
        self._failed_on = 0
        self._trial_seconds = TRIAL_SECONDS
        self._trial_at = 0.0
        self.advice = ADVICE
        """What to do, for the messages."""

    @property
    def problem(self) -> str | None:
        """Why the log takes no events, and what to do; None while it does."""
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
        """What the server's answers say of it. A server that was restarted begins anew."""
        if self._failure is not None and self._connection.connections != self._failed_on:
            self._failure = None
        return self._failure

    def note_space(self, shortage: str | None) -> None:
        """How little space the server's disk has; None: enough. Only what must be written goes on."""
        self._space = shortage

    def note_write_failure(self) -> None:
        """The server is through with an append and has not answered."""
        self._note("NATS answers but stores nothing, as after a failed write to its disk", TRIAL_SECONDS)

    def note_refusal(self, answer: str) -> None:
        """The server has refused an append for want of storage."""
        self._note(f"NATS refuses them ({answer})", REFUSED_TRIAL_SECONDS)

    def _note(self, reason: str, trial_seconds: float) -> None:
        self._failure = reason
        self._failed_on = self._connection.connections
        self._trial_seconds = trial_seconds
        self._trial_at = time.monotonic() + trial_seconds

    def note_stored(self) -> None:
        """The server has stored an event."""
        self._failure = None

    def require_space(self) -> None:
        """Raises LogNotWritable when the disk is too full for what can be refused."""
        if self._space is not None:
            raise self.refusal()

    def require_working(self) -> None:
        """Raises LogNotWritable while the server does not store events, but for a trial now and then."""
        if self.failure is None:
            return
        if time.monotonic() < self._trial_at:
            raise self.refusal()
        self._trial_at = time.monotonic() + self._trial_seconds

    def refusal(self) -> LogNotWritable:
        """The error for an append that was not sent."""
        return LogNotWritable(f"{self.problem or LogNotWritable.__doc__}; nothing was stored")
