"""Waits for the services that a node depends on, and watches them afterwards.

Each answers a ping to its name on NATS (NATS ADR-32).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Final

import anyio

from suite.bus.connection import Connection
from suite.circuit_breaker import CircuitBreaker
from suite.domain.breaker import Policy
from suite.errors import AccessDenied, DependencyMissing, NoService, RequestTimeout, Unavailable
from suite.identity import Clock
from suite.node.breakers import Breakers
from suite.ticks import tick

logger = logging.getLogger("suite.node")

PING_SECONDS = 1.0
AGAIN_SECONDS = 0.25
SAY_SECONDS = 5.0
WATCH_SECONDS = 5.0
POLICY: Final = Policy(failures=2, first_pause_seconds=5.0, longest_pause_seconds=60.0)


async def wait_for_dependencies(
    connection: Connection,
    names: Sequence[str],
    *,
    seconds: float,
    embedded: bool,
    clock: Clock = time.monotonic,
) -> None:
    """Wait until a micro service of each name has answered ``$SRV.PING.<name>``, at most ``seconds``.

    On an embedded server no other service can be up before the node serves, so it only logs a warning.
    Raises DependencyMissing with the names that have not answered, and AccessDenied if this user may not send
    pings.
    """
    if embedded and names:
        logger.warning(
            "not waiting for %s: nobody else can be on this node's own NATS server before it serves; "
            "give nats.url to share one, or set wait_for_dependencies to false",
            _listed(names),
        )
        return
    missing = list(dict.fromkeys(names))
    began, said = clock(), -math.inf
    while missing:
        left = began + seconds - clock()
        if clock() - said >= SAY_SECONDS:
            logger.info(
                "waiting for %s on NATS at %s, at most %.0f s more",
                _listed(missing),
                connection.url,
                max(0.0, left),
            )
            said = clock()
        for name in tuple(missing):
            if await _answers(connection, name):
                logger.info("%s answers", name)
                missing.remove(name)
        if missing and clock() - began >= seconds:
            raise DependencyMissing(
                f"no answer from {_listed(missing)} on NATS at {connection.url} within {seconds:g} s: "
                "start it there, take it out of dependencies, or set wait_for_dependencies to false"
            )
        if missing:
            await anyio.sleep(AGAIN_SECONDS)


async def watch_dependencies(connection: Connection, names: Sequence[str], breakers: Breakers) -> None:
    """See whether the services still answer, until cancelled. The breaker of one that does not is open."""
    watched = {name: breakers.make("dependency", name, POLICY) for name in dict.fromkeys(names)}
    while True:
        for name, breaker in watched.items():
            if breaker.try_use():
                await _look(connection, name, breaker)
        await tick(WATCH_SECONDS)


async def _look(connection: Connection, name: str, breaker: CircuitBreaker) -> None:
    try:
        answers = await _answers(connection, name)
    except AccessDenied as error:
        breaker.failed(error.message)
        return
    if answers:
        breaker.succeeded()
    elif connection.is_connected:
        breaker.failed(f"it has not answered a ping within {PING_SECONDS:g} s")
    else:  # whether it would answer cannot be seen from here
        breaker.withdrawn()


async def _answers(connection: Connection, name: str) -> bool:
    try:
        await connection.request(f"$SRV.PING.{name}", timeout=PING_SECONDS)
    except (NoService, RequestTimeout, Unavailable):  # a lost connection reconnects by itself
        return False
    return True


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
