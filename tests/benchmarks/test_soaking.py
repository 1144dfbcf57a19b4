"""What the soak benchmark says of what it saw: growth, percentiles, and a chart that is SVG."""

from __future__ import annotations

import random
from xml.etree import ElementTree

import anyio
import pytest

import plot
import soak
from resources import PARTS, Sample, growth_percent


def sample(minutes: float, memory_mb: float) -> Sample:
    return Sample(minutes, dict.fromkeys(PARTS, memory_mb), dict.fromkeys(PARTS, 10), minutes, 1.0)


def growth(*memory_mb: float) -> float:
    samples = [sample(minutes, each) for minutes, each in enumerate(memory_mb)]
    return growth_percent(samples, lambda each: each.memory_mb["node"])


def test_what_warms_up_has_not_grown_and_what_leaks_has() -> None:
    assert growth(10, 50, *[100] * 8) == pytest.approx(0)
    assert growth(*range(100, 200, 10)) == pytest.approx(100 * (185 - 125) / 125)


def test_of_what_was_refused_no_latency_is_told() -> None:
    outcomes = [
        soak.Outcome(0.1, seconds, code) for seconds, code in ((1.0, ""), (9.0, "overloaded"), (3.0, ""))
    ]
    took = soak.answered(outcomes)
    assert took == [1000.0, 3000.0]
    assert soak.percentile(took, 0.99) == 3000.0
    assert soak.percentile([], 0.5) == 0.0
    assert soak.Step(2.0, 5.0, outcomes, 0).refused == 1


def test_the_chart_is_svg_with_a_line_for_each_part() -> None:
    outcomes = [soak.Outcome(minutes / 4, 0.5, "") for minutes in range(80)]
    document = soak.picture(outcomes, [sample(minutes, 100.0 + minutes) for minutes in range(20)])
    root = ElementTree.fromstring(document)
    lines = [each for each in root.iter("{http://www.w3.org/2000/svg}path") if each.get("fill") == "none"]
    assert len(lines) == 2 * len(PARTS) + 2 + 2
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Memory, MB", "nats-server", "p95", "minutes"} <= set(texts)


@pytest.mark.parametrize("highest", [0.0, 0.3, 1.0, 7.0, 99.0, 12_345.0])
def test_a_scale_is_round_and_as_high_as_the_highest_value(highest: float) -> None:
    step = plot._step(highest)
    assert step * 4 >= highest
    assert highest == 0 or step <= highest


async def test_requests_come_whether_the_last_are_answered_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "MOST_AT_ONCE", 3)
    answers = anyio.Event()

    class Unanswered(soak.Load):
        def __init__(self) -> None:
            self._chance, self.unsent = random.Random(1), 0

        async def one(self) -> None:
            await answers.wait()
            self.outcomes.append(soak.Outcome(0.0, 1.0, ""))

    load = Unanswered()
    async with anyio.create_task_group() as tasks:

        async def answer() -> None:
            while not load.unsent:
                await anyio.sleep(0.01)
            answers.set()

        tasks.start_soon(answer)
        assert len(await load.open(a_second=100.0, seconds=0.5)) >= 3
    assert load.unsent > 0
