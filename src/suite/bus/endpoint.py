"""The endpoints of the service: the names of each action, its running and queued requests, its statistics."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from suite.bus.action import Action
from suite.bus.wire import Message
from suite.errors import Disabled, SuiteError, UnknownAction
from suite.messages.jsonschema import schema_references
from suite.messages.subjects import Subjects
from suite.telemetry import instruments

T = TypeVar("T")

QUEUE_GROUP = "suite"
"""The NATS queue group of all nodes: each request goes to one of them."""
NAME_LIMIT = 80
"""An error message shows at most this many characters of an unknown action's name."""


class Endpoint(Generic[T]):
    """The state of one action, and its description in the micro service protocol (NATS ADR-32)."""

    def __init__(self, action: Action[T], subject: str) -> None:
        self.action = action
        self.subject = subject
        self._attributes = instruments.of_messages("process", "process", subject)
        self.running = 0
        self.waiting: deque[Message] = deque()
        self.requests = 0
        self.errors = 0
        self.busy_ns = 0
        self.last_error = ""

    def attributes(self, error: str) -> dict[str, str]:
        """What tells its measurements apart. `error`: the code of the error; empty: none."""
        return {**self._attributes, instruments.ERROR: error} if error else self._attributes

    def info(self) -> dict[str, Any]:
        """The answer to `$SRV.INFO` for this endpoint."""
        metadata = {"description": self.action.description, **schema_references(self.action.request_type)}
        return self._identity() | {"metadata": metadata}

    def stats(self) -> dict[str, Any]:
        """The answer to `$SRV.STATS`. Times are in nanoseconds, and cover the work but not its dispatch."""
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


class Endpoints(Generic[T]):
    """The endpoints of one service, found by any spelling of their names."""

    def __init__(self, actions: Sequence[Action[T]], subjects: Subjects, disabled: Mapping[str, str]) -> None:
        self.all = tuple(Endpoint(each, subjects.action(each.name)) for each in actions)
        spelled = {name: each for each in self.all for name in each.action.spellings}
        self.enabled = {name: each for name, each in spelled.items() if each.action.name not in disabled}
        self.disabled = {name: each for name, each in spelled.items() if each.action.name in disabled}
        self._settings = disabled

    def refusal(self, name: str) -> tuple[Endpoint[T] | None, SuiteError]:
        """The endpoint of a name that is not enabled, None if it is unknown, and the error for its caller."""
        if (endpoint := self.disabled.get(name)) is None:
            return None, UnknownAction(f"Unknown action: {name[:NAME_LIMIT]}")
        return endpoint, self._switched_off(endpoint.action.name)

    def check_enabled(self, endpoint: Endpoint[T]) -> None:
        """Raise Disabled if an action is switched off."""
        if endpoint.action.name in self._settings:
            raise self._switched_off(endpoint.action.name)

    def _switched_off(self, action: str) -> Disabled:
        return Disabled(
            f"{action} is switched off on this node: set {self._settings[action]} to true to have it"
        )
