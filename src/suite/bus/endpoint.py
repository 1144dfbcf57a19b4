"""One action as it is served: what runs, what waits, what was."""

from __future__ import annotations

from collections import deque
from typing import Any, Generic, TypeVar

from suite.bus.action import Action
from suite.bus.wire import Message

T = TypeVar("T")

QUEUE_GROUP = "suite"
"""Nodes share the requests: each goes to one of them."""


class Endpoint(Generic[T]):
    """The state of one action, and how the micro service protocol (NATS ADR-32) tells it."""

    def __init__(self, action: Action[T], subject: str) -> None:
        self.action = action
        self.subject = subject
        self.span = f"process {subject}"
        self.running = 0
        self.waiting: deque[Message] = deque()
        self.requests = 0
        self.errors = 0
        self.busy_ns = 0
        self.last_error = ""

    def info(self) -> dict[str, Any]:
        """For `$SRV.INFO`."""
        metadata = {"description": self.action.description}
        return self._identity() | {"metadata": metadata}

    def stats(self) -> dict[str, Any]:
        """For `$SRV.STATS`: times in nanoseconds, of the work and not of its dispatch."""
        return self._identity() | {
            "num_requests": self.requests,
            "num_errors": self.errors,
            "last_error": self.last_error,
            "processing_time": self.busy_ns,
            "average_processing_time": self.busy_ns // max(self.requests, 1),
            "data": {"running": self.running, "waiting": len(self.waiting)},
        }

    def _identity(self) -> dict[str, Any]:
        return {"name": self.action.name, "subject": self.subject, "queue_group": QUEUE_GROUP}
