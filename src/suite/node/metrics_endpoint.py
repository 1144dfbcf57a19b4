"""Measures what a node does, and has Prometheus fetch that at an address of the node's own.

The gateway beside a node is another process, which has metrics of its own; and a node may have none.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import anyio

from suite import telemetry
from suite.config import Settings
from suite.extras import require
from suite.listening import listening, url_of

if TYPE_CHECKING:
    from suite.telemetry.exposition import Exposition

logger = logging.getLogger("suite.node")


class MetricsEndpoint(NamedTuple):
    """What is measured, and the socket at which Prometheus asks for it."""

    exposition: Exposition
    opened: socket.socket

    async def serve(self) -> None:
        """Serve the metrics until cancelled."""
        from suite.gateway.scrape import scraped  # imported here because a node needs HTTP for nothing else

        async with scraped(self.exposition, self.opened):
            logger.info("the metrics are at %s/metrics", url_of(self.opened))
            await anyio.sleep_forever()


@contextmanager
def measured(settings: Settings) -> Iterator[MetricsEndpoint | None]:
    """Measure during the block what the settings ask for. None: nothing is fetched.

    Raises PortTaken, InvalidConfiguration, and NotInstalled without the extra that is needed.
    """
    place = str(settings.data_dir.absolute())
    if settings.metrics_listen is None:
        with telemetry.measuring(settings.metrics, node=settings.node, process="node", place=place):
            yield None
        return
    require("http", "metrics_listen")
    with (
        listening(*settings.metrics_address, purpose="metrics") as opened,
        telemetry.exposing(settings.metrics, node=settings.node, process="node", place=place) as exposition,
    ):
        yield MetricsEndpoint(exposition, opened)
