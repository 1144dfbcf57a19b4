"""The units of systemd: well-formed, strict, and not so strict that the service does not work under them."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import psutil
import pytest

import suite
from suite.config import Settings
from suite.config.variables import unknown
from suite.node.ending import END_SECONDS
from support.models import tiny_model
from support.service import serving
from support.units import UNITS, analyzed, values

SERVICES = ("suite.service", "suite-gateway.service", "suite-backup.service")
MOST_EXPOSED = 2.0
"""Of systemd-analyze's scale, on which 10 is a service without any limit."""


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, for a program that is there."""
    for unit in UNITS.glob("*.*"):
        if unit.is_file():
            text = unit.read_text().replace("/opt/suite/bin/suite", sys.executable)
            (tmp_path / unit.name).write_text(text)
    return tmp_path


def test_systemd_finds_nothing_wrong(units: Path) -> None:
    found = analyzed("verify", *(str(units / name) for name in (*SERVICES, "suite-backup.timer")))
    assert str(units) not in found  # of other units on the machine it may have something to say


def test_the_checker_finds_what_is_wrong(units: Path) -> None:
    broken = units / "suite.service"
    broken.write_text(broken.read_text().replace("KillMode=mixed", "KillMode=kind"))
    assert "kill mode" in analyzed("verify", str(broken))


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_can_do_little_else(units: Path, service: str) -> None:
    said = analyzed("security", "--offline=yes", str(units / service))
    (score,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert float(score) <= MOST_EXPOSED


@pytest.mark.parametrize("example", sorted(UNITS.glob("*.d/*.example")), ids=lambda path: path.stem)
def test_a_drop_in_is_understood(units: Path, example: Path) -> None:
    drop_in = units / "suite.service.d" / example.stem
    drop_in.parent.mkdir()
    shutil.copyfile(example, drop_in)
    assert str(units) not in analyzed("verify", str(units / "suite.service"))


def test_systemd_waits_longer_than_the_node_needs_to_stop() -> None:
    (seconds,) = values("suite.service", "TimeoutStopSec")
    assert int(seconds) > Settings().drain_seconds + 2 * END_SECONDS
    assert values("suite.service", "KillMode") == ["mixed"]


@pytest.mark.parametrize("service", SERVICES)
def test_all_variables_are_settings(service: str) -> None:
    lines = " ".join(values(service, "Environment")).split()
    assert lines
    assert list(unknown({line.partition("=")[0]: "" for line in lines})) == []


def test_the_node_may_see_its_models_in_proc() -> None:
    assert values("suite.service", "ProtectProc") == [], "it hides what is not dumpable"


def filters_of(pid: int) -> int:
    """How many filters of system calls a process has."""
    status = Path(f"/proc/{pid}/status").read_text()
    (number,) = re.findall(r"^Seccomp_filters:\s+(\d+)$", status, re.MULTILINE)
    return int(number)


async def test_a_model_answers_under_the_limits_of_the_unit(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    tiny_model(models / "tiny.gguf")
    limited = (sys.executable, str(Path(__file__).parents[1] / "support" / "units.py"), "suite.service")
    async with (
        serving(models, tmp_path / "data", "--http", "127.0.0.1:0", within=limited) as service,
        suite.connect(data_dir=tmp_path / "data") as client,
    ):
        assert filters_of(service.pid) == 1
        answer = client.generate("tiny", "a", max_tokens=3)
        assert [chunk async for chunk in answer]
        # The model's process has one more: the unit lets the service confine it further.
        assert max(filters_of(child.pid) for child in psutil.Process(service.pid).children()) > 1
        assert await service.stop() == 0
