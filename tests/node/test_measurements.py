"""What is measured of bets, generations and waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import cast, get_args

import anyio.lowlevel
import pytest
from prometheus_client.parser import text_string_to_metric_families

from suite import telemetry
from suite.catalogue import Model
from suite.domain.footprint import Footprint
from suite.domain.residency import Residency
from suite.domain.sizes import Need
from suite.domain.turns import Turns
from suite.errors import NotEnoughMemory
from suite.identity import new_id
from suite.messages.actions.generation import Timings
from suite.messages.actor import Finished, Step
from suite.messages.decisions import Purpose
from suite.messages.events import BetOutcome, BetReason, PredictionSettled
from suite.node.admission import Admission, BeginLoad, Terms
from suite.node.appraisal import NO_APPRAISAL
from suite.node.measurements import BetMeasurements, GenerationMeasurements, LoadMeasurements
from suite.node.outcomes import Outcomes
from suite.telemetry.exposition import Exposition


@pytest.fixture
def exposition() -> Iterator[Exposition]:
    with telemetry.exposing("off", node="box", process="test") as exposition:
        yield exposition


def value(exposition: Exposition, name: str, **labels: str) -> float:
    """The sum of a name's series with these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(exposition.text().decode())
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def settled(outcome: BetOutcome, reason: BetReason, *, saved: float, wasted: float) -> PredictionSettled:
    return PredictionSettled(
        model_id="m",
        node="box",
        prediction_id="p",
        outcome=outcome,
        reason=reason,
        chance=0.5,
        saved_seconds=saved,
        byte_seconds=wasted,
    )


def finished(*, error: str = "", timings: Timings | None = None) -> Finished:
    return Finished(
        generation_id="g",
        prompt_tokens=10,
        reused_tokens=4,
        completion_tokens=5,
        drafted_tokens=6,
        accepted_tokens=3,
        outcome="failed" if error else "stop",
        seq=1,
        operation="chat",
        error=error,
        waited_ms=1500.0,
        seconds=2.0,
        timings=timings,
    )


TIMES = Timings(
    queue_ms=100.0,
    prompt_ms=100.0,
    time_to_first_token_ms=250.0,
    generation_ms=400.0,
    tokens_per_second=10.0,
)


def test_a_lost_bet_wastes_memory_and_a_won_one_saves_a_wait(exposition: Exposition) -> None:
    bets = BetMeasurements()
    assert value(exposition, "suite_bets_total", suite_outcome="waste") == 0
    bets.settled(settled("hit", "used", saved=3.5, wasted=10.0))
    bets.settled(settled("waste", "left", saved=0.0, wasted=7e9))
    assert value(exposition, "suite_bets_total", suite_outcome="hit", suite_reason="used") == 1
    assert value(exposition, "suite_bets_total", suite_outcome="waste", suite_reason="left") == 1
    assert value(exposition, "suite_bets_saved_seconds_total") == 3.5
    assert value(exposition, "suite_bets_wasted_byte_seconds_total") == 7e9


def test_a_generation_counts_from_the_request_with_its_wait_for_the_model(exposition: Exposition) -> None:
    GenerationMeasurements().finished("m", finished(timings=TIMES))
    assert value(exposition, "gen_ai_server_request_duration_seconds_sum") == pytest.approx(3.5)
    assert value(exposition, "gen_ai_server_time_to_first_token_seconds_sum") == pytest.approx(1.75)
    assert value(exposition, "gen_ai_server_time_per_output_token_seconds_sum") == pytest.approx(0.1)
    assert value(exposition, "suite_generation_queue_duration_seconds_sum") == pytest.approx(0.1)
    of_tokens = {
        kind: value(exposition, "suite_generation_tokens_total", gen_ai_token_type=kind)
        for kind in ("input", "reused", "output", "drafted", "accepted")
    }
    assert of_tokens == {"input": 10, "reused": 4, "output": 5, "drafted": 6, "accepted": 3}


def test_the_times_of_tokens_are_those_of_generations_that_succeed(exposition: Exposition) -> None:
    measurements = GenerationMeasurements()
    measurements.finished("m", finished(error="deadline_exceeded", timings=TIMES))
    measurements.finished("m", finished(error="context_exceeded"))
    for code in ("deadline_exceeded", "context_exceeded"):
        assert value(exposition, "gen_ai_server_request_duration_seconds_count", error_type=code) == 1
    assert value(exposition, "gen_ai_server_time_to_first_token_seconds_count") == 0
    assert value(exposition, "gen_ai_server_time_per_output_token_seconds_count") == 0
    assert value(exposition, "suite_generations_total", suite_outcome="failed") == 2


def test_each_step_of_the_engine_is_measured(exposition: Exposition) -> None:
    steps = [Step(2, 40, 1, 0.05, 2), Step(4, 4, 0, 0.02, None)]
    GenerationMeasurements().stepped("m", steps)
    assert value(exposition, "suite_engine_step_sequences_sum") == 6
    assert value(exposition, "suite_engine_step_sequences_count") == 2
    assert value(exposition, "suite_engine_step_tokens_sum") == 44
    assert value(exposition, "suite_engine_step_threads_count") == 1, "of the other nobody says how many"


def test_what_has_not_happened_to_a_model_is_0(exposition: Exposition) -> None:
    LoadMeasurements().began("m", waited_seconds=0.2, evicted=0)
    text = exposition.text().decode()
    for name in (
        "suite_crashes_total",
        "suite_load_failures_total",
        "suite_switches_total",
        "suite_unloads_total",
    ):
        assert f"{name}{{" in text
        assert value(exposition, name, gen_ai_request_model="m") == 0


class TooLarge:
    """A model that fits into no memory."""

    model_id = "m"

    @staticmethod
    def smaller(_: Footprint) -> str:
        return ""


async def test_only_what_clients_wanted_counts_as_a_refused_request(exposition: Exposition) -> None:
    admission = Admission(
        Turns(residency=Residency(limit_bytes=Footprint(1)), queue_limit=1),
        instances={},
        need=lambda _: Need(Footprint(2), Footprint(2)),
        begin_load=cast("BeginLoad", None),
        evict=lambda _instance, _decision: None,
        appraise=lambda _held, _memory: NO_APPRAISAL,
        check=lambda _: None,
        look=anyio.lowlevel.checkpoint,
        outcomes=Outcomes("box"),
        measurements=LoadMeasurements(),
        new_id=new_id,
        clock=time.monotonic,
    )
    purposes: tuple[Purpose, ...] = get_args(Purpose)
    for purpose in purposes:
        with pytest.raises(NotEnoughMemory):
            await admission.enter(cast("Model", TooLarge()), Terms(purpose=purpose), correlation_id="c")
    assert value(exposition, "suite_refusals_total", error_type="not_enough_memory") == 1
    assert len(admission.outcomes_due(is_last=True)) == len(purposes)
