"""Metrics of this process as text for Prometheus, and what bounds them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client.parser import text_string_to_metric_families

from suite import telemetry
from suite.errors import Unavailable
from suite.telemetry import instruments
from suite.telemetry.exposition import Exposition, prometheus_name
from suite.telemetry.instrument import Timed
from suite.telemetry.instruments import MODEL, OUTCOME
from suite.telemetry.measuring import meter


@pytest.fixture
def exposition() -> Iterator[Exposition]:
    with telemetry.exposing("off", node="box", process="test") as exposition:
        yield exposition


def samples(exposition: Exposition, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """The series of a name."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition.text().decode())
        for sample in family.samples
        if sample.name == name
    }


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("gen_ai.server.request.duration", "s", "gen_ai_server_request_duration_seconds"),
        ("suite.instance.resident", "By", "suite_instance_resident_bytes"),
        ("suite.bets.wasted", "By.s", "suite_bets_wasted_byte_seconds"),
        ("suite.generations", "{generation}", "suite_generations"),
        ("suite.step.seconds", "s", "suite_step_seconds"),
        ("suite.share", "1", "suite_share_ratio"),
    ],
)
def test_names_are_translated_as_opentelemetry_wants_it(name: str, unit: str, expected: str) -> None:
    assert prometheus_name(name, unit) == expected


def test_a_histogram_has_buckets_that_add_up(exposition: Exposition) -> None:
    waits = instruments.WAIT_DURATION.create()
    for seconds in (0.02, 0.3, 1000.0):
        waits.record(seconds, {MODEL: "m"})
    buckets = samples(exposition, "suite_wait_duration_seconds_bucket")
    counts = [
        buckets[("gen_ai_request_model", "m"), ("le", bound)] for bound in ("0.05", "0.5", "300.0", "+Inf")
    ]
    assert counts == [1, 2, 2, 3]
    labels = (("gen_ai_request_model", "m"),)
    assert samples(exposition, "suite_wait_duration_seconds_count") == {labels: 3}
    assert samples(exposition, "suite_wait_duration_seconds_sum")[labels] == pytest.approx(1000.32)


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r"), max_size=20))
def test_any_id_of_a_model_can_be_read_back(model: str) -> None:
    reader = Exposition()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter("suite").create_counter("suite.generations").add(2, {MODEL: model})
    (found,) = [
        sample
        for family in text_string_to_metric_families(reader.text().decode())
        for sample in family.samples
        if sample.name == "suite_generations_total"
    ]
    assert (found.labels, found.value) == ({"gen_ai_request_model": model}, 2)


MOST_SERIES = 2_000
"""OpenTelemetry's default, which the docs tell."""


def test_a_metric_has_no_more_series_than_its_limit_and_still_counts_all(exposition: Exposition) -> None:
    counter = instruments.GENERATIONS.create()
    for number in range(3 * MOST_SERIES):
        counter.add(1, {MODEL: f"m{number}", OUTCOME: "stop"})
    series = samples(exposition, "suite_generations_total")
    assert len(series) == MOST_SERIES + 1
    assert series[(("otel_metric_overflow", "True"),)] == 2 * MOST_SERIES
    assert sum(series.values()) == 3 * MOST_SERIES


def test_what_is_gone_is_not_told_any_more(exposition: Exposition) -> None:
    loaded = {"a": 1, "b": 2}
    instruments.THREADS_DUE.observe(lambda: [(count, {MODEL: id}) for id, count in loaded.items()])
    assert len(samples(exposition, "suite_instance_threads")) == 2
    del loaded["a"]
    assert samples(exposition, "suite_instance_threads") == {(("gen_ai_request_model", "b"),): 2}


def test_a_block_that_fails_is_timed_under_the_code_of_its_error(exposition: Exposition) -> None:
    with pytest.raises(Unavailable), Timed(instruments.APPEND_DURATION.create(), {}):
        raise Unavailable("gone")
    assert samples(exposition, "suite_log_append_duration_seconds_count") == {
        (("error_type", "unavailable"),): 1
    }


def test_nothing_is_measured_where_nobody_asked_for_it() -> None:
    with telemetry.measuring("off", node="box", process="test") as exposition:
        assert exposition is None
        assert type(meter()).__name__ == "NoOpMeter"
    with telemetry.exposing("off", node="box", process="test"):
        assert type(meter()).__name__ != "NoOpMeter"
    assert type(meter()).__name__ == "NoOpMeter"


def test_names_are_defined_once_and_attributes_are_of_a_convention_or_ours() -> None:
    names = [each.name for each in instruments.ALL]
    assert len(names) == len(set(names))
    for each in instruments.ALL:
        assert each.name.startswith(("gen_ai.", "messaging.", "suite."))
        assert each.description.endswith((".", "HEALTHY."))
