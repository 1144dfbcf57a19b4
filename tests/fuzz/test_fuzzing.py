"""The short form of what `make fuzz` does: the same inputs each time, unless FUZZ_SEED says others."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from suite.messages.jsonschema import action_types
from support.fuzzing.actions import Requests
from support.fuzzing.run import Report, Target, fuzz, random_of
from support.fuzzing.service import FuzzedService, fuzzed_service
from support.fuzzing.targets import TARGETS
from support.lasting import lasting

SEED = int(os.environ.get("FUZZ_SEED", "15"))

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FuzzedService]:
    async with lasting(fuzzed_service(tmp_path_factory.mktemp("fuzzing"))) as service:
        yield service


async def short_form(target: Target[object], tmp_path: Path) -> Report:
    return await fuzz(target, tmp_path / "found", seed=SEED, count=TARGETS[target.name].short_form)


@pytest.mark.parametrize("name", [name for name, known in TARGETS.items() if known.open is not None])
async def test_nothing_at_random_breaks(name: str, tmp_path: Path) -> None:
    make = TARGETS[name].open
    assert make is not None
    with make(tmp_path) as target:
        report = await short_form(target, tmp_path)
    assert report.is_well, report


@pytest.mark.parametrize("name", [name for name, known in TARGETS.items() if known.open_on is not None])
async def test_nothing_at_random_breaks_a_service(service: FuzzedService, name: str, tmp_path: Path) -> None:
    make = TARGETS[name].open_on
    assert make is not None
    async with make(service) as target:
        report = await short_form(target, tmp_path)
    assert report.is_well, report


async def test_what_fails_can_be_made_again_by_its_number(tmp_path: Path) -> None:
    async def check(number: int) -> str:
        assert number % 7, "seven"
        return "other"

    target = Target(
        name="numbers", make=lambda random: random.randrange(1000), check=check, written=lambda n: b"%d" % n
    )
    report = await fuzz(target, tmp_path, seed=3, count=50)
    assert report.findings and not report.is_well
    for found in report.findings:
        assert random_of("numbers", 3, found.number).randrange(1000) % 7 == 0
        assert int(found.path.read_bytes()) % 7 == 0
        assert f"SEED=3 FIRST={found.number} COUNT=1" in str(report)
        again = await fuzz(target, tmp_path, seed=3, first=found.number, count=1)
        assert [each.number for each in again.findings] == [found.number]
    assert len(report.findings) + report.outcomes["other"] == 50
    assert all(found.path.parent == tmp_path for found in report.findings)


async def test_all_actions_are_asked_for() -> None:
    requests = Requests({})
    made = Counter(requests.make(random_of("actions", 0, number)).action for number in range(4000))
    assert made.keys() >= {each.name for each in action_types()}
