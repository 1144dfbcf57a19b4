"""A circuit breaker around something that may fail again and again (`suite.domain.breaker`, ADR 65)::

    breaker = CircuitBreaker("object_store", "SUITE_FILES", policy, node="box1", clock=time.monotonic)
    with breaker.guarding(Unavailable):      # raises Unavailable at once while it is left alone
        await use_it()

It may be used from any thread. What happened to it waits in `take_events` for who appends it to the log.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from suite.domain.breaker import (
    Breaker,
    Failed,
    Guarded,
    Policy,
    Position,
    Seen,
    Succeeded,
    Tried,
    Withdrawn,
    decide,
    described,
    evolve,
    failed_with,
    is_for_log,
    may_try,
    position,
)
from suite.errors import Unavailable
from suite.identity import Clock
from suite.messages.events import BreakerClosed, BreakerEvent, BreakerKind, BreakerOpened
from suite.redaction import redacted

logger = logging.getLogger("suite")

MOST_EVENTS: Final = 64
"""So many events wait to be taken, the newest ones."""
MOST_REASON: Final = 500
"""The most characters of a reason."""


class CircuitBreaker:
    """One thing, and whether it is used or left alone."""

    def __init__(self, kind: BreakerKind, name: str, policy: Policy, *, node: str, clock: Clock) -> None:
        self.of = Guarded(node, kind, name)
        self._policy = policy
        self._clock = clock
        self._state = Breaker(since=clock())
        self._events: deque[tuple[BreakerEvent, bool]] = deque(maxlen=MOST_EVENTS)
        """Each with whether it is for the log."""
        self._lock = threading.Lock()

    @property
    def state(self) -> Breaker:
        """How it is now."""
        return self._state

    @property
    def is_closed(self) -> bool:
        """Whether it is used as if nothing had happened."""
        return self._state.position == "closed"

    @property
    def position(self) -> Position:
        """How it is for people: after its pause it is half open, also before anybody has tried it."""
        return position(self._state, self._clock())

    @property
    def wait_seconds(self) -> float:
        """How long it is still left alone; 0 if it may be used now, or after the trial that is running."""
        state = self._state
        if state.position != "open":
            return 0.0
        return max(0.0, state.since + state.pause_seconds - self._clock())

    @property
    def seconds_in_position(self) -> float:
        """How long it has been in its position."""
        state, now = self._state, self._clock()
        pause_over = state.pause_seconds if position(state, now) != state.position else 0.0
        return max(0.0, now - state.since - pause_over)

    def try_use(self) -> bool:
        """Whether it may be used now. Who gets True says afterwards what became of it."""
        with self._lock:
            if not may_try(self._state, self._clock()):
                return False
            self._see(Tried())
            return True

    def failed(self, reason: str) -> bool:
        """A use has failed. The reason has no prompt, answer or secret. Returns whether an outage begins."""
        with self._lock:
            return self._see(Failed(reason=redacted(reason)[:MOST_REASON]))

    def succeeded(self) -> bool:
        """A use has succeeded. Returns whether an outage ends."""
        with self._lock:
            return self._see(Succeeded())

    def withdrawn(self) -> None:
        """A use has ended without showing whether it works."""
        with self._lock:
            self._see(Withdrawn())

    @contextmanager
    def guarding(
        self, *failures: type[Exception], answers: tuple[type[Exception], ...] = ()
    ) -> Iterator[None]:
        """A use of it, which has failed if the block raises one of `failures`.

        By one of `answers` it has refused something, and so it works. Raises Unavailable without a use while
        it is left alone.
        """
        if not self.try_use():
            raise Unavailable(self.refusal)
        try:
            yield
        except failures as error:
            self.failed(str(error))
            raise
        except answers:
            self.succeeded()
            raise
        except BaseException:
            self.withdrawn()
            raise
        self.succeeded()

    @property
    def refusal(self) -> str:
        """Why it is not used now, and when it is tried again."""
        state, (_, kind, name) = self._state, self.of
        seconds = self.wait_seconds
        again = f"in {math.ceil(seconds)} s" if seconds else "at this moment"
        return (
            f"{described(kind, name)} is left alone, as it "
            f"{failed_with(state.failures, state.reason)}; it is tried again {again}"
        )

    def take_events(self, *, for_log: bool = False) -> list[BreakerEvent]:
        """What has happened to it since the last call, the oldest first; `for_log`: what the log has."""
        with self._lock:
            taken = [event for event, is_for_log in self._events if is_for_log or not for_log]
            self._events.clear()
            return taken

    def follow(self, event: BreakerEvent) -> None:
        """Take over what has happened to it in another process."""
        with self._lock:
            self._note(event, self._clock())

    def _see(self, seen: Seen) -> bool:
        """Take note of a use. Returns whether an outage begins or ends by that."""
        was_closed, now = self.is_closed, self._clock()
        follows = decide(self._state, seen, self._policy, self.of, now)
        self._state = evolve(self._state, seen, now)
        if follows is not None:
            self._note(follows, now)
        return self.is_closed != was_closed

    def _note(self, event: BreakerEvent, now: float) -> None:
        self._events.append((event, is_for_log(self._state, event, self._policy)))
        self._state = evolve(self._state, event, now)


def log_event(event: BreakerEvent) -> None:
    """Have this process log the begin and the end of an outage."""
    what = described(event.kind, event.name)
    match event:
        case BreakerOpened(after_trial=False):
            logger.warning(
                "%s has %s; it is left alone for a while", what, failed_with(event.failures, event.reason)
            )
        case BreakerClosed():
            logger.warning("%s works again", what)
