"""What those are told who find all places taken."""

from __future__ import annotations

import os

import anyio
import anyio.to_thread
import msgspec
import pytest

from suite.actors import metrics
from suite.actors.metrics import SlotTurnover, StepReports
from suite.actors.pipe import NodePipe
from suite.engine.engine import StepStats
from suite.messages.actor import AnyReport, Step, Stepped


def test_as_long_as_nothing_is_known_it_is_a_second() -> None:
    refusal = SlotTurnover(8).refusal("9 generations run or wait in phi")
    assert refusal.retry_after_ms == 1000
    assert refusal.message == "9 generations run or wait in phi: try again in about 1 s"


def test_it_is_as_long_as_it_lately_took_until_a_place_was_freed() -> None:
    turnover = SlotTurnover(4)
    turnover.freed(40.0)
    assert turnover.refusal("full").retry_after_ms == 10_000
    for _ in range(100):
        turnover.freed(10.0)
    refusal = turnover.refusal("full")
    assert 2500 <= refusal.retry_after_ms <= 2501
    assert refusal.message.endswith("about 3 s")


def test_it_is_never_less_than_a_second() -> None:
    turnover = SlotTurnover(1)
    turnover.freed(0.01)
    assert turnover.refusal("full").retry_after_ms == 1000


async def test_the_node_is_told_of_each_step_in_reports_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "_REPORT_SECONDS", 0.01)
    reading, writing = os.pipe()
    steps = StepReports(NodePipe(writing))
    for number in range(600):
        steps(StepStats(sequences=1, tokens=number, waiting=0, seconds=0.01, threads=2))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(steps.run)
        told: list[Step] = []
        while len(told) < 600:
            line = await anyio.to_thread.run_sync(_line, reading)
            assert len(line) < 64 * 1024, "the node takes no more in one piece"
            report = msgspec.json.decode(line, type=AnyReport)
            assert isinstance(report, Stepped)
            told += report.steps
        tasks.cancel_scope.cancel()
    assert [step.tokens for step in told] == list(range(600))
    os.close(reading)
    os.close(writing)


def _line(descriptor: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(descriptor, 1)
    return line
