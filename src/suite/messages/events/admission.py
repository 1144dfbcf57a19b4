"""Facts about requests that waited for a model, or were refused."""

from __future__ import annotations

from suite.messages.decisions import Decision, Purpose
from suite.messages.events.base import Event, event


class AdmissionEvent(Event, frozen=True, kw_only=True):
    """A fact about the requests for one model on one node that did not get it at once (ADR 46)."""

    node: str
    model_id: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.node, self.model_id)


@event("admission", "wait_started")
class WaitStarted(AdmissionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Requests wait for a model, and have done so for a while. One event for all of them."""

    place: int
    """1: it is the next."""
    waits_for: tuple[str, ...] = ()
    """The models that have to leave first."""
    decision: Decision
    """What was weighed; it says how many requests wait, and for how long."""


@event("admission", "wait_ended")
class WaitEnded(AdmissionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Nobody waits for the model any longer."""

    served: int = 0
    """How many of the requests got the model."""
    refused: int = 0
    """How many waited in vain."""
    withdrawn: int = 0
    """How many did not wait to the end: their clients have gone."""
    longest_seconds: float
    """How long the longest wait was."""


@event("admission", "refused")
class RequestsRefused(AdmissionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Requests for a model were refused: the first of a kind at once, those that follow counted together."""

    code: str
    """The stable code of the error that they got."""
    message: str
    requests: int = 1
    within_seconds: float = 0.0
    """In what time that many were refused; 0 for the first."""
    waited_seconds: float = 0.0
    """How long the longest of them had waited."""
    decision: Decision | None = None
    """What was weighed, and what would have changed it."""
    purpose: Purpose = "request"
    """What the model was wanted for. Others than ``request`` are loads that nodes wanted themselves."""

    @property
    def is_of_clients(self) -> bool:
        """Whether requests of clients were refused. Older events say it only in what was weighed."""
        weighed_for = "request" if self.decision is None else self.decision.purpose
        return self.purpose == weighed_for == "request"
