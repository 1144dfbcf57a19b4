"""Facts about nodes: suite processes."""

from __future__ import annotations

import msgspec

from suite.messages.events.base import Event, event


class NodeEvent(Event, frozen=True, kw_only=True):
    """A fact about one node: one suite process on one machine."""

    node: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.node,)


class NodeLifeEvent(NodeEvent, frozen=True, kw_only=True):
    """A fact that begins or ends a life of a node: what an earlier one had in memory is gone."""


@event("node", "started")
class NodeStarted(NodeLifeEvent, frozen=True, kw_only=True, omit_defaults=True):
    """A node has started. The event's sequence is the epoch that fences older processes of the same name."""

    version: str
    host: str
    pid: int
    memory_limit_bytes: int
    """What all models together may have in RAM."""
    gpus: dict[str, int] = msgspec.field(default_factory=dict)
    """What they may have on each GPU, ``gpu0`` and so on, in bytes. Empty: its only memory is RAM."""


@event("node", "stopped")
class NodeStopped(NodeLifeEvent, frozen=True, kw_only=True):
    """A node has stopped in order."""

    epoch: int


@event("node", "lost")
class NodeLost(NodeLifeEvent, frozen=True, kw_only=True):
    """A node's lease ran out although it had not stopped; ``observer`` is the node that noticed."""

    epoch: int
    observer: str


@event("node", "draining")
class NodeDraining(NodeEvent, frozen=True, kw_only=True):
    """A node is being taken out of service: it gets no new work, until it is started again or has resumed."""

    epoch: int
    requested_by: str
    """How the requester calls itself; empty if it does not."""


@event("node", "resumed")
class NodeResumed(NodeEvent, frozen=True, kw_only=True):
    """A node that was being drained takes work again."""

    epoch: int
    requested_by: str
    """How the requester calls itself; empty if it does not."""
