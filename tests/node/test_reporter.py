"""What fails in a node comes into its log: each bug by itself, and all that came while the log was full."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import cast

import anyio
import anyio.lowlevel
import pytest

from suite.errors import LogNotWritable
from suite.log import Log
from suite.messages.events import ErrorReported
from suite.node import reporter
from suite.node.reporter import Reporter
from suite.tasks import background
from support.nats import eventually


class FullLog:
    """A log that has no room until it gets some, as that of a server whose disk is full."""

    def __init__(self) -> None:
        self.is_full = True
        self.refused = 0
        self.events: list[ErrorReported] = []

    async def append(self, event: ErrorReported) -> None:
        await anyio.lowlevel.checkpoint()
        if self.is_full:
            self.refused += 1
            raise LogNotWritable("the disk is full")
        self.events.append(event)


@pytest.fixture
def log() -> FullLog:
    return FullLog()


@pytest.fixture
def reports(log: FullLog, monkeypatch: pytest.MonkeyPatch) -> Reporter:
    monkeypatch.setattr(reporter, "LOOK_SECONDS", 0.01)
    return Reporter(cast("Log", log), "box1", clock=time.monotonic)


async def test_errors_are_counted_until_the_log_takes_them(
    log: FullLog, reports: Reporter, caplog: pytest.LogCaptureFixture
) -> None:
    async with background() as tasks:
        tasks.start_soon(reports.run)
        reports.report("load_failed", "no room")
        await eventually(lambda: log.refused > 3)
        reports.report("load_failed", "no room")
        log.is_full = False
        await eventually(lambda: log.events)
    assert sum(event.count for event in log.events) == 2
    said = [record for record in caplog.records if "is not reported in the log yet" in record.getMessage()]
    assert len(said) == 1


def raise_here() -> None:
    raise KeyError("here")


def raise_there() -> None:
    raise KeyError("there")


async def test_bugs_in_two_places_are_two_errors(log: FullLog, reports: Reporter) -> None:
    log.is_full = False

    def log_bug(bug: Callable[[], None]) -> None:
        try:
            bug()
        except KeyError:
            logging.getLogger("suite.node").exception("a request failed unexpectedly")

    async with background() as tasks:
        tasks.start_soon(reports.run)
        await anyio.wait_all_tasks_blocked()
        for bug in (raise_here, raise_there, raise_here):
            log_bug(bug)
        await eventually(lambda: len(log.events) == 2)
    assert sum(event.count for event in log.events) == 3
    assert {event.error_type for event in log.events} == {"internal"}
    assert all("(KeyError)" in event.message for event in log.events)
