"""Filters of events: what a person writes, and the subjects that NATS gets."""

from __future__ import annotations

import pytest

from suite.errors import InvalidRequest
from suite.log.publisher import subject_matches
from suite.messages.event_filter import FACTS, event_filters, events_of_model
from suite.messages.events import REGISTRY
from suite.messages.subjects import Subjects

SUBJECTS = Subjects()
IDS = {
    "instance": ("box.local", "SmolLM2-135M.Q4_1"),
    "admission": ("box.local", "SmolLM2-135M.Q4_1"),
    "breaker": ("box.local", "object_store", "SUITE_FILES"),
}
DEFAULT_IDS = ("SmolLM2-135M.Q4_1",)


def read(filter: str | None) -> list[str]:
    return [each.removeprefix("suite.event.") for each in event_filters(SUBJECTS, filter)]


@pytest.mark.parametrize(
    ("filter", "subjects"),
    [
        (None, [">"]),
        (">", [">"]),
        ("*.>", [">"]),
        ("usage", ["usage.>"]),
        ("usage.>", ["usage.>"]),
        ("usage.SmolLM2-135M-Instruct.Q4_1.>", ["usage.SmolLM2-135M-Instruct%2EQ4_1.>"]),
        ("usage.SmolLM2-135M-Instruct.Q4_1", ["usage.SmolLM2-135M-Instruct%2EQ4_1.>"]),
        ("usage.m.Q4.generated", ["usage.m%2EQ4.generated"]),
        ("suite.event.usage.m%2EQ4.generated", ["usage.m%2EQ4.generated"]),
        ("usage.100% mine.>", ["usage.100%25%20mine.>"]),
        ("usage.generated", ["usage.*.generated"]),
        ("usage.m.*", ["usage.m.*"]),
        ("instance.*.smollm2.>", ["instance.*.smollm2.>"]),
        ("instance.loaded", ["instance.*.*.loaded"]),
        ("instance.box1.loaded", ["instance.box1.*.loaded"]),
        ("instance.*.m.Q4.>", ["instance.*.m%2EQ4.>"]),
        (
            "instance.box1.m.Q4.>",
            ["instance.box1.m%2EQ4.>", "instance.box1%2Em.Q4.>", "instance.box1%2Em%2EQ4.>"],
        ),
    ],
)
def test_ids_are_written_as_they_are(filter: str | None, subjects: list[str]) -> None:
    assert read(filter) == subjects


@pytest.mark.parametrize("kind", REGISTRY.values(), ids=lambda kind: kind.type)
def test_every_event_is_found_by_its_ids_as_they_are(kind: type) -> None:
    aggregate, fact = kind.aggregate, kind.fact  # type: ignore[attr-defined]
    ids = IDS.get(aggregate, DEFAULT_IDS)
    subject = SUBJECTS.event(aggregate, ids, fact)
    for filter in (
        ".".join((aggregate, *ids, fact)),
        ".".join((aggregate, *ids, ">")),
        ".".join((aggregate, *ids)),
        f"*.{'.'.join(ids)}.>",
        subject,
        f"{aggregate}.{fact}",
    ):
        matching = [each for each in event_filters(SUBJECTS, filter) if subject_matches(each, subject)]
        assert len(matching) == 1, filter


@pytest.mark.parametrize(
    ("filter", "words"),
    [
        ("usages.m.>", "did you mean 'usage'?"),
        ("quux", ", ".join(FACTS)),
        ("usage.>.generated", "> stands only at the end"),
        ("usage.SmolLM2.*.generated", "* stands for a whole id"),
        ("usage.*.*.generated", "one id and a fact"),
        ("instance.*.*.*.loaded", "a node's name and a model's id"),
    ],
)
def test_a_filter_that_can_match_nothing_is_refused(filter: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        event_filters(SUBJECTS, filter)
    assert words in refused.value.message


def test_the_events_of_a_model_are_of_every_kind_that_names_it() -> None:
    filters = events_of_model(SUBJECTS, "m.Q4")
    for aggregate, ids in (
        ("model", ()),
        ("instance", ("box",)),
        ("admission", ("box",)),
        ("usage", ()),
        ("evaluation", ()),
    ):
        subject = SUBJECTS.event(aggregate, (*ids, "m.Q4"), "x")
        assert sum(subject_matches(each, subject) for each in filters) == 1
