"""Whatever the gateway's process writes, its node reads on."""

from __future__ import annotations

import logging
import socket
import sys
import time

import anyio
import pytest

from suite.config import Settings
from suite.domain.breaker import SERVICE_POLICY
from suite.gateway.service_breaker import service_breaker
from suite.identity import utc_now
from suite.node.breakers import Breakers
from suite.node.gateway import GatewayProcess

WRITES = """
import sys
sys.stdout.write("x" * 300_000 + "\\n")
sys.stdout.write("no news\\n")
sys.stdout.write('{"type": "event", "event_type": "suite.breaker.closed.v1", "body": {"node": 5}}\\n')
sys.stdout.write('{"type": "serves"}\\n')
"""


async def test_what_cannot_be_read_is_logged_and_what_comes_after_it_is_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "suite.node")
    breakers = Breakers("box1", now=utc_now, clock=time.monotonic)
    with socket.create_server(("127.0.0.1", 0)) as opened:
        gateway = GatewayProcess(Settings(), opened, breakers)
        async with await anyio.open_process([sys.executable, "-c", WRITES], stderr=None) as process:
            with anyio.fail_after(60):
                await gateway._watch(process)
    assert "line of over" in caplog.text
    assert "the gateway writes: no news" in caplog.text
    assert "cannot be read (suite.breaker.closed.v1" in caplog.text
    assert "the models are at" in caplog.text


def test_a_long_outage_of_the_service_is_a_few_events_of_the_log() -> None:
    now = 0.0
    there = service_breaker(node="box1", clock=lambda: now)
    breakers = Breakers("box1", now=utc_now, clock=lambda: now)
    with socket.create_server(("127.0.0.1", 0)) as opened:
        GatewayProcess(Settings(), opened, breakers)
    (here,) = (breaker for breaker in breakers if breaker.of.kind == "service")
    for _ in range(SERVICE_POLICY.failures):
        there.failed("nobody answers")
    for_log = []
    for _ in range(100):
        now += SERVICE_POLICY.longest_pause_seconds
        assert there.try_use()
        there.failed("nobody answers")
        for event in there.take_events():
            here.follow(event)
        for_log += here.take_events(for_log=True)
    assert here.state.failures == there.state.failures
    assert [event.fact for event in for_log] == ["opened", *4 * ("half_opened", "opened")]
