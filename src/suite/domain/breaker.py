"""Decides when something that fails again and again is left alone, and when it is tried again (ADR 65).

A circuit breaker (M. Nygard, Release It!)::

    follows = decide(state, seen, policy, of, at)     # what to append; `seen` is Tried, Failed, ...
    state = evolve(state, seen, at)
    if follows is not None:
        state = evolve(state, follows, at)
    may_try(state, at)                                # whether it may be used now
    is_for_log(before, follows, policy)               # whether others are told of it

Closed: it is used. When it has failed `Policy.failures` times in a row it opens: it is left alone for a
pause. After the pause it is half open: one use is a trial. If that succeeds it closes; if it fails it opens
again, for twice as long. A success at any time closes it, as it shows that it works. A trial that takes
longer than the pause was keeps nobody off any more: the next use is one too.

Times are seconds of any clock, as long as it is always the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from suite.messages.events import (
    BreakerClosed,
    BreakerEvent,
    BreakerHalfOpened,
    BreakerKind,
    BreakerOpened,
    Event,
    NodeLifeEvent,
)

Position: TypeAlias = Literal["closed", "open", "half_open"]

_MOST_DOUBLINGS: Final = 32


_WORDS: Final[Mapping[str, str]] = {
    "dependency": "the service {}, which this node depends on,",
    "gateway": "the gateway's process",
    "model": "the model {}",
    "object_store": "the object store {}",
    "otlp": "the export of {} over OTLP",
    "service": "the service behind the gateway",
}


def described(kind: BreakerKind | Literal["model"], name: str) -> str:
    """What a breaker is around, for people."""
    return _WORDS[kind].format(name)


def failed_with(failures: int, reason: str) -> str:
    """How something has failed, for people: "failed 3 times in a row, the last time with: it is down"."""
    if failures == 1:
        return f"failed once, with: {reason}"
    return f"failed {failures} times in a row, the last time with: {reason}"


class Policy(NamedTuple):
    """How patient a breaker is."""

    failures: int
    """So many in a row open it."""
    first_pause_seconds: float
    """For how long it opens at first. Each failed trial makes that twice as long."""
    longest_pause_seconds: float
    """It is never left alone for longer at once."""

    def pause(self, failures: int) -> float:
        """For how many seconds it is left alone after so many failures in a row."""
        doublings = failures - self.failures
        if doublings < 0:
            return 0.0
        return min(
            self.first_pause_seconds * 2.0 ** min(doublings, _MOST_DOUBLINGS), self.longest_pause_seconds
        )


SERVICE_POLICY: Final = Policy(failures=5, first_pause_seconds=0.5, longest_pause_seconds=5.0)
"""Of the breaker around the service behind a gateway, and of the one in its node that follows it."""


class Guarded(NamedTuple):
    """What a breaker is around."""

    node: str
    kind: BreakerKind
    name: str


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one breaker."""

    position: Position = "closed"
    failures: int = 0
    """How many in a row."""
    reason: str = ""
    """How it failed the last time."""
    since: float = 0.0
    """When it came into its position."""
    opened_at: float = 0.0
    """When it opened after it had been closed."""
    pause_seconds: float = 0.0
    """For how long it was opened."""
    tried_at: float | None = None
    """When the trial began that is running; None: none is."""


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody begins to use it, which `may_try` has allowed."""


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """A use has failed."""

    reason: str


class Succeeded(msgspec.Struct, frozen=True, kw_only=True):
    """A use has succeeded."""


class Withdrawn(msgspec.Struct, frozen=True, kw_only=True):
    """A use has ended and shown nothing: it was cancelled, or refused for another reason."""


Seen: TypeAlias = Tried | Failed | Succeeded | Withdrawn
"""What is seen of its uses. This is not in the log; what follows from it is."""


def may_try(state: Breaker, at: float) -> bool:
    """Whether it may be used now."""
    match state.position:
        case "closed":
            return True
        case "open":
            return at - state.since >= state.pause_seconds
        case "half_open":
            return state.tried_at is None or at - state.tried_at >= state.pause_seconds


def position(state: Breaker, at: float) -> Position:
    """Its position as people are told: half open from the end of the pause on, when a use would be a trial.

    What nobody uses stays open by its log, and is not left alone any more.
    """
    return "half_open" if state.position == "open" and may_try(state, at) else state.position


def decide(state: Breaker, seen: Seen, policy: Policy, of: Guarded, at: float) -> BreakerEvent | None:
    """The event that follows from what was seen; None if nothing does. `state` is the one before it."""
    failures = state.failures + 1
    match seen, state.position:
        case Failed(reason=reason), "closed" if failures >= policy.failures:
            return _opened(of, policy, failures, reason, after_trial=False)
        case Failed(reason=reason), "half_open":
            return _opened(of, policy, failures, reason, after_trial=True)
        case Tried(), "open":
            return BreakerHalfOpened(**of._asdict())
        case Succeeded(), "open" | "half_open":
            return BreakerClosed(
                **of._asdict(), failures=state.failures, open_seconds=max(0.0, at - state.opened_at)
            )
        case _:
            return None


def is_for_log(before: Breaker, event: BreakerEvent, policy: Policy) -> bool:
    """Whether an event is for the log, by the state before it.

    Once the pause is the longest one, trials that fail are not: they would be thousands a day. By its log, a
    breaker is then open until it is closed.
    """
    match event:
        case BreakerOpened(after_trial=True):
            return event.pause_seconds > before.pause_seconds
        case BreakerHalfOpened():
            return before.pause_seconds < policy.longest_pause_seconds
        case _:
            return True


def evolve(state: Breaker, event: Seen | Event, at: float) -> Breaker:
    """The state after what was seen, or what stands in the log, at that time."""
    replace = msgspec.structs.replace
    match event:
        case Tried() if state.position != "closed":
            return replace(state, tried_at=at)
        case Failed(reason=reason) if state.position != "open":
            return replace(state, failures=state.failures + 1, reason=reason, tried_at=None)
        case Succeeded() if state.position == "closed":
            return replace(state, failures=0, reason="")
        case Withdrawn():
            return replace(state, tried_at=None)
        case BreakerOpened():
            return Breaker(
                position="open",
                failures=event.failures,
                reason=event.reason,
                since=at,
                opened_at=state.opened_at if event.after_trial else at,
                pause_seconds=event.pause_seconds,
            )
        case BreakerHalfOpened():
            return replace(state, position="half_open", since=at)
        case BreakerClosed() | NodeLifeEvent():
            return Breaker(since=at)
        case _:
            return state


def _opened(of: Guarded, policy: Policy, failures: int, reason: str, *, after_trial: bool) -> BreakerOpened:
    return BreakerOpened(
        **of._asdict(),
        failures=failures,
        pause_seconds=policy.pause(failures),
        reason=reason,
        after_trial=after_trial,
    )
