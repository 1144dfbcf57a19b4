"""Whether the gateway and the service behind it work, for people, probes and Prometheus."""

from __future__ import annotations

from typing import Final, Literal

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from suite.errors import SuiteError
from suite.gateway.gateway import Gateway
from suite.gateway.operations import Operation, json_response
from suite.gateway.scrape import written
from suite.messages.actions.status import GetStatsReply
from suite.telemetry.exposition import MEDIA_TYPE

ANSWER_SECONDS: Final = 2.0
"""How long the service may take to say how it is."""
FRESH_SECONDS: Final = 1.0
"""How long what it said is told to others: everybody may ask, and as often as they like."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How the service is. What it suffers from, `suite health` tells to those who may know."""

    status: Literal["ok", "degraded", "unavailable"]


def operations(gateway: Gateway) -> list[Operation]:
    """The operations for whoever watches the gateway."""
    probes = _Probes(gateway)
    return [
        Operation(path="/health", answer=probes.health, summary="How the service is.", reply=Health),
        Operation(path="/livez", answer=probes.live, summary="Whether the gateway answers.", reply=Health),
        Operation(path="/readyz", answer=probes.ready, summary="Whether the service answers.", reply=Health),
        Operation(
            path="/metrics",
            answer=probes.metrics,
            summary="Metrics for Prometheus.",
            media_type=MEDIA_TYPE,
        ),
    ]


class _Probes:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._asking = anyio.Lock()
        self._one = anyio.CapacityLimiter(1)
        self._known = Health(status="unavailable")
        self._asked: float | None = None

    async def health(self, request: Request) -> Response:
        """Say how the service is; 503 if it does not answer."""
        del request
        async with self._asking:
            if self._asked is None or self._gateway.clock() - self._asked > FRESH_SECONDS:
                self._known = await self._ask()
                self._asked = self._gateway.clock()
        return json_response(self._known, status=503 if self._known.status == "unavailable" else 200)

    async def _ask(self) -> Health:
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                health = await self._gateway.client.health_check()
        except (SuiteError, TimeoutError):
            return Health(status="unavailable")
        return Health(status="degraded" if health.problems else "ok")

    async def ready(self, request: Request) -> Response:
        """Say whether requests can be answered, which takes the service."""
        return await self.health(request)

    async def live(self, request: Request) -> Response:
        """Answer."""
        del request
        return json_response(Health(status="ok"))

    async def metrics(self, request: Request) -> Response:
        """The metrics of the gateway, and of the node if it answers."""
        del request
        stats = await self._stats()
        return await written(lambda: self._gateway.metrics.exposition(stats), self._one)

    async def _stats(self) -> GetStatsReply | None:
        with anyio.move_on_after(ANSWER_SECONDS):
            try:
                return await self._gateway.client.get_stats()
            except SuiteError:
                pass
        return None
