"""What clients asked for, and what they were told: the evidence against which the log is judged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from suite.messages.envelope import Recorded
from suite.messages.events import EvaluationLogged, Generated, InstanceLoaded, MetricLogged

Key: TypeAlias = tuple[str, str]
"""Which event it is, as a client can name it: its kind, and an id."""


class Acknowledged(NamedTuple):
    """An event of which a client was told that it is stored."""

    key: Key
    asked_at: float
    """When it was first asked for, by `time.monotonic`."""
    told_at: float
    seq: int | None
    """Where in the log, if the client was told."""


class Refused(NamedTuple):
    """An error that a client got."""

    at: float
    code: str


class History:
    """All that clients were told since the start."""

    def __init__(self) -> None:
        self.acknowledged: dict[Key, Acknowledged] = {}
        self.refused: list[Refused] = []

    def acknowledge(self, key: Key, asked_at: float, seq: int | None = None) -> None:
        """Note that an event is stored. What is told twice counts as it was told first."""
        self.acknowledged.setdefault(key, Acknowledged(key, asked_at, time.monotonic(), seq))

    def refuse(self, code: str) -> None:
        """Note an error."""
        self.refused.append(Refused(time.monotonic(), code))


def load_key(model_id: str, seq: int) -> Key:
    """The key of a load. Its client knows no id of it, only where in the log it is."""
    return "load", f"{model_id} at {seq}"


def keys_of(event: Recorded) -> Iterator[Key]:
    """The keys of an event that clients can ask for; none of others."""
    match event.data:
        case Generated(generation_id=id, conversation_id=conversation_id):
            yield "generation", id
            if conversation_id is not None:  # each client of HTTP makes a new one for each request
                yield "conversation", conversation_id
        case MetricLogged(metric_id=id):
            yield "metric", id
        case EvaluationLogged(evaluation_id=id):
            yield "evaluation", id
        case InstanceLoaded(model_id=model_id):
            yield load_key(model_id, event.seq)
