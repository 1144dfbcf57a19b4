"""Watches what a service says of itself, and judges whether that was the truth."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Final, NamedTuple

import anyio

from suite.errors import LogNotWritable, SuiteError
from suite.tasks import background
from support.durability.findings import Finding
from support.durability.history import Refused
from support.durability.system import System

LOOK_SECONDS: Final = 0.25
TRUTH_SECONDS: Final = 5.0
"""For so long a service may still say that it is well when it has begun to refuse events."""
_IN_A_ROW_SECONDS: Final = 1.0


class Sample(NamedTuple):
    """What was said at one moment."""

    at: float
    status: str
    """`HEALTHY`, `degraded`, or the code of the error that came instead."""
    problems: tuple[str, ...] = ()


class HealthWatch:
    """Asks for the health again and again."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.samples: list[Sample] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask until the block ends."""
        async with background() as tasks:
            tasks.start_soon(self._run)
            yield

    async def _run(self) -> None:
        while True:
            self.samples.append(await sample(self._system))
            await anyio.sleep(LOOK_SECONDS)


async def sample(system: System) -> Sample:
    """What it says now."""
    asked_at = time.monotonic()
    try:
        health = await system.client.health_check()
    except SuiteError as error:
        return Sample(asked_at, error.code)
    return Sample(asked_at, health.status, health.problems)


def judged_health(samples: Sequence[Sample], refused: Iterable[Refused], tells: str) -> list[Finding]:
    """Whether problems were told: the one that `tells` is a pattern of, and that events are refused."""
    found = []
    if tells and not any(re.search(tells, problem) for each in samples for problem in each.problems):
        said = sorted({problem for each in samples for problem in each.problems})
        found.append(Finding("health", f"nobody was told of {tells!r}, but: {said or 'nothing'}"))
    for begin, end in _spans([each.at for each in refused if each.code == LogNotWritable.code]):
        for each in samples:
            if begin + TRUTH_SECONDS < each.at < end and each.status == "HEALTHY":
                found.append(Finding("health", f"HEALTHY {each.at - begin:.1f} s after events were refused"))
                break
    return found


def _spans(times: Sequence[float]) -> list[tuple[float, float]]:
    """From when to when something happened again and again."""
    spans: list[tuple[float, float]] = []
    begin = times[0] if times else 0.0
    for before, after in pairwise([*times, float("inf")]):
        if after - before > _IN_A_ROW_SECONDS:
            spans.append((begin, before))
            begin = after
    return spans
