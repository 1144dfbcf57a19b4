"""Facts about evaluations of models."""

from __future__ import annotations

from datetime import datetime

from msgspec import UNSET, UnsetType

from suite.messages.events.base import Event, event


class EvaluationEvent(Event, frozen=True, kw_only=True):
    """A fact about one evaluation of a model."""

    evaluation_id: str
    model_name: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.model_name,)


@event("evaluation", "logged")
class EvaluationLogged(EvaluationEvent, frozen=True, kw_only=True):
    """The scores of a model in one evaluation cycle."""

    cycle_id: str
    trust_score: float
    """0 to 1."""
    accuracy: float | None = None
    f1_score: float | None = None
    avg_latency_ms: float = 0.0
    """0: not measured."""
    evaluation_timestamp: datetime
    comparison_data: str | None = None
    """Additional data from the evaluator: a text, or an object as JSON."""
    version: int | UnsetType = UNSET
    """Which version of the model was evaluated, by number; left out if it is not known."""


@event("evaluation", "retracted")
class EvaluationRetracted(EvaluationEvent, frozen=True, kw_only=True):
    """An evaluation was wrong and no longer counts."""

    reason: str | None = None
