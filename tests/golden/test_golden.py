"""What was once stored is read for ever. A golden file is written once and never changed:

``body`` is the stored JSON, to the letter; ``newest`` is what it means today, which changes only when a
newer version of the fact and its upcaster come.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from suite.messages.events import REGISTRY, Event, UnknownEvent
from suite.messages.upcasters import UPCASTERS, Body, decode_event

GOLDEN = {path.stem: json.loads(path.read_text()) for path in Path(__file__).parent.glob("*.json")}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_what_was_stored_still_means_the_same(name: str) -> None:
    golden = GOLDEN[name]
    assert golden["type"] == name
    event = decode_event(name, golden["body"].encode())
    assert event.type == golden["newest"]["type"]
    assert json.loads(msgspec.json.encode(event)) == golden["newest"]["fields"]


def test_every_version_of_every_event_has_a_golden_file() -> None:
    assert set(GOLDEN) == set(REGISTRY) | set(UPCASTERS)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_a_field_that_a_later_version_added_does_not_stop_an_older_reader(name: str) -> None:
    body = json.loads(GOLDEN[name]["body"]) | {"from_the_future": {"a": 1}}
    assert decode_event(name, json.dumps(body).encode()) == decode_event(name, GOLDEN[name]["body"].encode())


class Parked(Event, frozen=True, kw_only=True):
    """The newest of three versions of a fact that only this test has."""

    type: ClassVar[str] = "suite.car.parked.v3"
    place: str
    minutes: int
    paid: bool


def _minutes(body: Body) -> Body:
    return {"place": body["place"], "minutes": body["hours"] * 60}


def _paid(body: Body) -> Body:
    return {**body, "paid": body["minutes"] == 0}


_UPCASTERS = {
    "suite.car.parked.v1": ("suite.car.parked.v2", _minutes),
    "suite.car.parked.v2": ("suite.car.parked.v3", _paid),
}
_REGISTRY: dict[str, type[Event]] = {Parked.type: Parked}


@pytest.mark.parametrize(
    ("version", "body"),
    [
        (1, b'{"place": "A", "hours": 2}'),
        (2, b'{"place": "A", "minutes": 120}'),
        (3, b'{"place": "A", "minutes": 120, "paid": false}'),
    ],
)
def test_each_old_version_is_lifted_step_by_step_to_the_newest(version: int, body: bytes) -> None:
    event = decode_event(f"suite.car.parked.v{version}", body, upcasters=_UPCASTERS, registry=_REGISTRY)
    assert event == Parked(place="A", minutes=120, paid=False)


def test_a_lifted_body_that_does_not_fit_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_event(
            "suite.car.parked.v2",
            b'{"place": 7, "minutes": 120}',
            upcasters=_UPCASTERS,
            registry=_REGISTRY,
        )


def test_a_fact_of_a_later_version_is_kept_as_it_came() -> None:
    assert decode_event("suite.car.towed.v9", b'{"by": "whom"}') == UnknownEvent(body=b'{"by": "whom"}')
