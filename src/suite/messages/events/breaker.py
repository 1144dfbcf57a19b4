"""Facts about circuit breakers."""

from __future__ import annotations

from typing import Literal, TypeAlias

from suite.messages.events.base import Event, event

BreakerKind: TypeAlias = Literal["dependency", "gateway", "object_store", "otlp", "service"]
"""What is left alone when it fails again and again. `dependency`: a micro service that the node needs;
`gateway`: the process that serves HTTP beside it; `object_store`: a bucket through which models or
conversations travel; `otlp`: the collector of traces or metrics; `service`: the nodes, as the gateway beside
one reaches them. A model is `quarantined` instead."""


class BreakerEvent(Event, frozen=True, kw_only=True):
    """A fact about a circuit breaker of one node (ADR 65). They begin closed at each start of the node."""

    node: str
    kind: BreakerKind
    name: str
    """Which one of this kind, such as the name of a bucket."""

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.node, self.kind, self.name)


@event("breaker", "opened")
class BreakerOpened(BreakerEvent, frozen=True, kw_only=True, omit_defaults=True):
    """It failed again and again, and is left alone for a while."""

    failures: int
    """How many times in a row it failed."""
    pause_seconds: float
    """For how long it is left alone; then one use is a trial."""
    reason: str
    """How it failed the last time."""
    after_trial: bool = False
    """Whether it was open before, and a trial has failed."""


@event("breaker", "half_opened")
class BreakerHalfOpened(BreakerEvent, frozen=True, kw_only=True):
    """The pause is over, and it is tried."""


@event("breaker", "closed")
class BreakerClosed(BreakerEvent, frozen=True, kw_only=True):
    """It works again."""

    failures: int
    """How many times in a row it had failed."""
    open_seconds: float
    """How long it was open, trials included."""
