"""A day of a small fleet, made up: what the views over time show something of."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import count
from random import Random
from typing import TypeAlias

from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.identity import new_id
from suite.log import Log
from suite.messages.decisions import Decision, Purpose
from suite.messages.events import (
    ErrorReported,
    EvaluationLogged,
    Event,
    Generated,
    InstanceCrashed,
    InstanceLoaded,
    InstanceLoadStarted,
    InstanceUnloaded,
    MetricLogged,
    Outcome,
    PredictionMade,
    PredictionSettled,
    RequestsRefused,
)
from suite.messages.subjects import Subjects

MODELS = (
    "Llama-3.2-3B-Instruct",
    "Mistral-7B-v0.3",
    "Qwen2.5-Coder-7B",
    "SmolLM2-135M",
    "gemma-3-270m-it",
    "nomic-embed-text",
    "phi-4-mini",
)
NODE = "box9"
"""It is down by now."""
ROOM = 4
"""So many models have room at once."""
DAY = timedelta(days=1)
GIGABYTE = 10**9

Moment: TypeAlias = tuple[datetime, Event]


async def write_a_day(server: EmbeddedServer, end: datetime) -> None:
    """Append the events of the day before a time, each with the time at which it happened."""
    clock = [end]
    async with (
        Connection.open(server.access, name="past") as connection,
        Log.open(connection, Subjects(), source=f"/node/{NODE}", new_id=new_id, now=lambda: clock[0]) as log,
    ):
        for clock[0], event in sorted(a_day(end), key=lambda moment: moment[0]):
            await log.append(event)


def a_day(end: datetime) -> Iterator[Moment]:
    """What happened in the day before a time."""
    random = Random(7)
    begin = end - DAY
    yield from _residency(random, begin, end)
    yield from _requests(random, begin)
    yield from _bets(random, begin)
    yield from _judgements(random, begin)


def _residency(random: Random, begin: datetime, end: datetime) -> Iterator[Moment]:
    """Models come for requests and bets, and leave for others, because they crash, or at the end."""
    resident: dict[str, str] = {}
    at, numbers = begin, count()
    while (at := at + timedelta(minutes=random.expovariate(1 / 25))) < end - timedelta(minutes=30):
        model_id, instance_id = random.choice(MODELS), str(next(numbers))
        if model_id in resident:
            continue
        if len(resident) == ROOM:
            yield at, _evicted(resident, model_id)
        purpose: Purpose = random.choice(("request", "request", "preload"))
        yield at, _begun(model_id, instance_id, purpose)
        ready = at + timedelta(seconds=random.uniform(5, 40))
        yield ready, _loaded(model_id, instance_id, (ready - at).total_seconds())
        if random.random() < 0.08:
            yield (
                ready + timedelta(seconds=30),
                InstanceCrashed(
                    node=NODE, model_id=model_id, instance_id=instance_id, exit_code=-11, generations=1
                ),
            )
        else:
            resident[model_id] = instance_id
    for model_id, instance_id in resident.items():
        yield end - timedelta(minutes=20), _unloaded(model_id, instance_id)


def _begun(model_id: str, instance_id: str, purpose: Purpose) -> Event:
    size = 2 * GIGABYTE
    return InstanceLoadStarted(
        node=NODE,
        model_id=model_id,
        instance_id=instance_id,
        reserved_bytes=size,
        context_tokens=4096,
        decision=Decision(purpose=purpose, need_bytes=size, free_bytes=size, limit_bytes=8 * GIGABYTE),
    )


def _loaded(model_id: str, instance_id: str, seconds: float) -> Event:
    return InstanceLoaded(
        node=NODE,
        model_id=model_id,
        instance_id=instance_id,
        pid=1,
        resident_bytes=2 * GIGABYTE,
        load_ms=1000 * seconds,
    )


def _evicted(resident: dict[str, str], loaded: str) -> Event:
    model_id = next(iter(resident))
    return InstanceUnloaded(
        node=NODE,
        model_id=model_id,
        instance_id=resident.pop(model_id),
        reason="evicted",
        freed_bytes=2 * GIGABYTE,
        evicted_for=loaded,
        unused_seconds=420.0,
    )


def _unloaded(model_id: str, instance_id: str) -> Event:
    return InstanceUnloaded(
        node=NODE, model_id=model_id, instance_id=instance_id, reason="idle", freed_bytes=2 * GIGABYTE
    )


def _requests(random: Random, begin: datetime) -> Iterator[Moment]:
    for _ in range(900):
        at = begin + DAY * random.betavariate(3, 2.2)
        yield at, _generated(random, random.choice(MODELS))
    for _ in range(6):
        model_id = random.choice(MODELS)
        yield (
            begin + DAY * random.random(),
            RequestsRefused(
                node=NODE, model_id=model_id, code="not_enough_memory", message="no room", requests=2
            ),
        )
        yield (
            begin + DAY * random.random(),
            ErrorReported(
                node=NODE,
                error_type="generation_failed",
                message="the engine could not go on with a batch of 512 tokens",
                severity="error",
                model_id=model_id,
            ),
        )


def _generated(random: Random, model_id: str) -> Event:
    prompt = int(random.lognormvariate(6, 1))
    outcomes: list[Outcome] = ["stop", "length", "cancelled", "failed"]
    return Generated(
        model_id=model_id,
        node=NODE,
        instance_id="i",
        generation_id="g",
        prompt_tokens=prompt,
        reused_tokens=int(prompt * random.betavariate(2, 2)),
        completion_tokens=int(random.lognormvariate(5, 0.8)),
        queue_ms=random.expovariate(1 / 20),
        time_to_first_token_ms=random.lognormvariate(5, 0.7),
        generation_ms=random.lognormvariate(8, 0.8),
        outcome=random.choices(outcomes, (90, 6, 3, 1))[0],
        waited_ms=random.lognormvariate(9, 0.6) if random.random() < 0.03 else 1.0,
    )


def _bets(random: Random, begin: datetime) -> Iterator[Moment]:
    for number in range(70):
        at, chance, saves = begin + DAY * random.uniform(0, 0.95), random.betavariate(2, 1.5), 20.0
        model_id, prediction_id = random.choice(MODELS), str(number)
        yield (
            at,
            PredictionMade(
                model_id=model_id,
                node=NODE,
                prediction_id=prediction_id,
                chance=chance,
                estimate=chance,
                horizon_seconds=1800.0,
                saves_seconds=saves * chance,
                costs_seconds=2.0,
                bytes=2 * GIGABYTE,
            ),
        )
        is_hit = random.random() < chance
        yield (
            at + timedelta(minutes=random.uniform(2, 30)),
            PredictionSettled(
                model_id=model_id,
                node=NODE,
                prediction_id=prediction_id,
                outcome="hit" if is_hit else "waste",
                reason="used" if is_hit else "not_used",
                chance=chance,
                used=is_hit,
                saved_seconds=saves if is_hit else 0.0,
                byte_seconds=2 * GIGABYTE * 600.0,
            ),
        )


def _judgements(random: Random, begin: datetime) -> Iterator[Moment]:
    """Evaluations each hour, of better and better models, and what agents measure."""
    scores = {model_id: random.uniform(0.5, 0.8) for model_id in MODELS[:5]}
    for hour in range(24):
        at = begin + timedelta(hours=hour, minutes=10)
        for model_id, before in scores.items():
            score = scores[model_id] = min(max(before + random.gauss(0.004, 0.02), 0.0), 1.0)
            yield (
                at,
                EvaluationLogged(
                    evaluation_id=f"{model_id}-{hour}",
                    model_name=model_id,
                    cycle_id=f"hour-{hour}",
                    trust_score=score,
                    accuracy=min(score + 0.05, 1.0),
                    f1_score=score,
                    avg_latency_ms=random.lognormvariate(6.5, 0.3),
                    evaluation_timestamp=at,
                ),
            )
        for number, agent in enumerate(("coder", "planner", "reviewer")):
            yield (
                at,
                MetricLogged(
                    metric_id=f"{agent}-{hour}",
                    agent_name=agent,
                    metric_name="answer_seconds",
                    value=(3 + number) * random.lognormvariate(0, 0.2),
                    timestamp=at,
                ),
            )
