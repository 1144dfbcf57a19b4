"""Which instance of a service a process is: a node is the same one after a restart, and nobody else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from suite.telemetry.resource import resource

ID = "service.instance.id"
NODE = ("box", "node", "/var/lib/suite")


def id_of(node: str, process: str, place: str | None) -> object:
    return resource(node=node, process=process, place=place).attributes[ID]


def test_one_that_stays_at_its_place_is_the_same_in_another_process() -> None:
    program = (
        f"from suite.telemetry.resource import resource as r; print(r(node={NODE[0]!r}, process={NODE[1]!r}"
    )
    program += f", place={NODE[2]!r}).attributes[{ID!r}])"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == id_of(*NODE)


@pytest.mark.parametrize(
    "other",
    [
        ("other", "node", "/var/lib/suite"),
        ("box", "gateway", "/var/lib/suite"),
        ("box", "node", "/srv/suite"),
        ("box", "node", None),
    ],
)
def test_others_have_other_ids(other: tuple[str, str, str | None]) -> None:
    assert id_of(*other) != id_of(*NODE)


def test_the_standard_variable_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"{ID}=mine")
    assert id_of(*NODE) == "mine"
