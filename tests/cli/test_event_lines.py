"""An event on a line: its plain fields. What it weighed is told in sentences by `suite explain`."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from suite.cli.events import details
from suite.messages.benchmarks import NumberedQuestion, Question
from suite.messages.decisions import Candidate, Decision
from suite.messages.envelope import Recorded
from suite.messages.events import BenchmarkStarted, Event, InstanceLoadStarted, Loser, PredictionMade

DECISION = Decision(
    need_bytes=2,
    free_bytes=1,
    limit_bytes=8,
    candidates=(Candidate(model_id="a", bytes=4, standing="idle", chosen=True),),
)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            InstanceLoadStarted(
                node="box1",
                model_id="tiny",
                instance_id="i",
                reserved_bytes=2,
                context_tokens=8,
                evicting=("a", "b"),
                decision=DECISION,
            ),
            "instance_id=i reserved_bytes=2 context_tokens=8 evicting=a,b",
        ),
        (
            PredictionMade(
                model_id="tiny",
                node="box1",
                prediction_id="p",
                chance=0.5,
                estimate=0.5,
                horizon_seconds=60.0,
                saves_seconds=1.0,
                costs_seconds=0.5,
                bytes=2,
                losers=(Loser(model_id="a", chance=0.1, saves_seconds=0.1),),
            ),
            "node=box1 prediction_id=p chance=0.5 estimate=0.5 horizon_seconds=60.0 saves_seconds=1.0 "
            "costs_seconds=0.5 bytes=2",
        ),
        (
            BenchmarkStarted(
                benchmark_id="b",
                model_id="tiny",
                node="box1",
                content="abc",
                settings_key="key",
                cycle_id="w48",
                streams=(1, 4),
                rounds=5,
                prompt_tokens=256,
                answer_tokens=64,
                questions=(NumberedQuestion(line=1, question=Question(prompt="x", exact="y")),),
            ),
            "model_id=tiny node=box1 content=abc settings_key=key cycle_id=w48 streams=1,4 rounds=5 "
            "prompt_tokens=256 answer_tokens=64",
        ),
    ],
)
def test_the_fields_of(event: Event, line: str) -> None:
    recorded = Recorded(
        seq=1,
        subject=f"suite.event.{event.aggregate}.{'.'.join(event.ids)}.{event.fact}",
        id="id",
        type=event.type,
        source="/node/box1",
        time=datetime(2026, 11, 28, tzinfo=UTC),
        data=event,
    )
    assert details(recorded) == line
