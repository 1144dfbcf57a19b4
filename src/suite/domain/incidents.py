"""Which facts tell of something that went wrong, and how to say it to people."""

from __future__ import annotations

import msgspec

from suite.errors import ActorCrashed, LoadCancelled
from suite.errors import NodeLost as NodeLostError
from suite.messages.events import (
    ErrorReported,
    Event,
    InstanceCrashed,
    InstanceLoadFailed,
    NodeLost,
    Severity,
)


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that went wrong."""

    error_type: str
    """A stable code, such as the classes of `suite.errors` have."""
    message: str
    severity: Severity
    node: str
    """Where it went wrong."""
    model_id: str | None = None


def incident(event: Event) -> Incident | None:
    """What an event says went wrong; None when nothing did.

    A load that an unload ended is what somebody asked for, so it is none.
    """
    match event:
        case ErrorReported():
            return Incident(
                error_type=event.error_type,
                message=event.message,
                severity=event.severity,
                node=event.node,
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
                message=(
                    f"the process of {event.model_id} on {event.node} died with exit code {event.exit_code} "
                    f"and {event.generations} generations in it: the next request loads the model anew"
                ),
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
        case _:
            return None
