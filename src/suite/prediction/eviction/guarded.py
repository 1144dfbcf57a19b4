"""A policy of somebody's own, which may raise, loop or answer nonsense: then the default goes on."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final

from suite.prediction.eviction.policy import Candidate, EvictionPolicy, Fact, OwnPolicy

_LONGEST_TEXT: Final = 200
"""Characters of what an error says."""


class PolicyLoops(BaseException):
    """The policy did not answer in time. It is no Exception, so that a policy cannot catch it by accident."""


class NoNumber(ValueError):
    """A worth that cannot be put in order with others."""


def told(error: BaseException) -> str:
    """What an error says: of somebody's own code, even that may raise."""
    try:
        text = str(error)[:_LONGEST_TEXT]
    except BaseException:
        text = "what it says cannot be read"
    return ": ".join(filter(None, (type(error).__name__, text)))


class Watch:
    """Interrupts a call that takes too long. Works in a main thread only, and for Python code only."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._calls = 0
        self._seen = -1
        self._is_calling = False

    @contextmanager
    def armed(self) -> Iterator[None]:
        """While this is open, calls are watched."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
            yield
            return
        before = signal.signal(signal.SIGALRM, self._tick)
        signal.setitimer(signal.ITIMER_REAL, self._seconds, self._seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)

    @contextmanager
    def call(self) -> Iterator[None]:
        """One call that must end in time. Raises PolicyLoops in it otherwise."""
        self._calls += 1
        self._is_calling = True
        try:
            yield
        finally:
            self._is_calling = False

    def _tick(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._is_calling and self._calls == self._seen:
            raise PolicyLoops
        self._seen = self._calls


class Guarded:
    """Asks a policy as long as it answers well, and the default from its first failure on."""

    def __init__(self, own: OwnPolicy, default: EvictionPolicy, watch: Watch, *, name: str) -> None:
        self.name = name
        self.failure: str | None = None
        """What the policy did wrong, and who goes on instead; None: nothing so far."""
        self._own = own
        self._default = default
        self._watch = watch
        self._facts = 0

    @property
    def in_force(self) -> EvictionPolicy:
        """The policy that answers now."""
        return self if self.failure is None else self._default

    def fold(self, fact: Fact) -> None:
        """Tell both."""
        self._facts += 1
        self._default.fold(fact)
        if self.failure is None:
            with self._failing("fold"), self._watch.call():
                self._own.fold(fact)

    def worth(self, candidate: Candidate, *, now: float) -> float:
        """What the policy says, or the default once it has failed."""
        if self.failure is None:
            with self._failing("worth"), self._watch.call():
                return _number(self._own.worth(candidate, now=now))
        return self._default.worth(candidate, now=now)

    def worths(self, candidates: Sequence[Candidate], *, now: float) -> list[float]:
        """The same of each, one after the other: a policy of somebody's own may fail at any."""
        return [self.worth(each, now=now) for each in candidates]

    @contextmanager
    def _failing(self, method: str) -> Iterator[None]:
        try:
            yield
        except PolicyLoops:
            self._give_up(f"{method} did not end")
        except NoNumber as error:
            self._give_up(f"{method} answered {error}, which is no number")
        except BaseException as error:  # of a call without a wait: nobody can have cancelled it
            with self._watch.call():
                problem = told(error)
            self._give_up(f"{method} raised {problem}")

    def _give_up(self, problem: str) -> None:
        self.failure = f"{problem}, at fact {self._facts:,}: {self._default.name} went on from there"


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise NoNumber(f"{value!r:.60}")
    return max(-sys.float_info.max, min(sys.float_info.max, float(value)))  # JSON has no infinity
