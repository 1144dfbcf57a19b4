"""What a gateway tells the node that it runs beside: JSON lines on its standard output."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class GatewayServes(msgspec.Struct, frozen=True, kw_only=True, tag="serves"):
    """It has reached the service, and answers requests."""


class GatewayEvent(msgspec.Struct, frozen=True, kw_only=True, tag="event"):
    """Something has happened to the circuit breaker between it and the service."""

    event_type: str
    body: msgspec.Raw
    """What the log gets of it."""


GatewayNews: TypeAlias = GatewayServes | GatewayEvent
