"""Decides which events are errors, and how to describe them to people."""

from __future__ import annotations

from typing import Final

import msgspec

from suite.domain.breaker import described as described_breaker
from suite.domain.breaker import failed_with
from suite.domain.exit_codes import described
from suite.errors import ActorCrashed, LoadCancelled
from suite.errors import NodeLost as NodeLostError
from suite.explanation.words import counted
from suite.messages.events import (
    BreakerOpened,
    ErrorReported,
    Event,
    InstanceCrashed,
    InstanceLoadFailed,
    NodeLost,
    Severity,
)

BREAKER_OPENED: Final = "breaker_opened"
"""The type of an error that says that something is left alone, as it failed."""


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One error."""

    error_type: str
    """A stable code, such as those of `suite.errors`."""
    message: str
    severity: Severity
    node: str
    """The node where it happened."""
    model_id: str | None = None
    count: int = 1
    """How many errors of this kind it stands for."""


def incident(event: Event) -> Incident | None:
    """The error that an event describes; None if it describes none.

    A load that was cancelled by an unload is not an error, because somebody asked for it.
    """
    match event:
        case ErrorReported():
            return Incident(
                error_type=event.error_type,
                message=event.message,
                severity=event.severity,
                node=event.node,
                model_id=event.model_id or None,
                count=event.count,
            )
        case InstanceLoadFailed() if event.code != LoadCancelled.code:
            return Incident(
                error_type=event.code,
                message=event.message,
                severity="error",
                node=event.node,
                model_id=event.model_id,
            )
        case InstanceCrashed():
            return Incident(
                error_type=ActorCrashed.code,
                message=_crash(event),
                severity="error",
                node=event.node,
                model_id=event.model_id,
            )
        case NodeLost():
            return Incident(
                error_type=NodeLostError.code,
                message=(
                    f"{event.node} ended without a stop, as {event.observer} noticed: its models and "
                    "generations are gone, start it again"
                ),
                severity="warning",
                node=event.node,
            )
        case BreakerOpened(after_trial=False):
            return Incident(
                error_type=BREAKER_OPENED,
                message=(
                    f"{described_breaker(event.kind, event.name)} has "
                    f"{failed_with(event.failures, event.reason)}; it is left alone, "
                    "and tried again now and then"
                ),
                severity="warning",
                node=event.node,
            )
        case _:
            return None


def _crash(event: InstanceCrashed) -> str:
    process = f"the process of {event.model_id} on {event.node}"
    generations = counted(event.generations, "generation")
    if event.variant:
        generations += f" of {event.variant}"
    if event.reason == "out_of_memory":
        return (
            f"{process} was killed by the kernel for lack of memory, with {generations} in it: "
            "set memory_limit_gb lower; the next request loads the model again"
        )
    return (
        f"{process} died with {described(event.exit_code)} and {generations} in it: "
        "the next request loads the model again"
    )
