"""Facts about metrics, which agents measure."""

from __future__ import annotations

from datetime import datetime

from suite.messages.events.base import Event, event


@event("metric", "logged")
class MetricLogged(Event, frozen=True, kw_only=True):
    """One sample of a metric, measured by an agent."""

    metric_id: str
    agent_name: str
    metric_name: str
    value: float
    timestamp: datetime
    """When the agent measured it."""
    context: str | None = None
    """Additional data from the agent: a text, or an object as JSON."""

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.agent_name,)
