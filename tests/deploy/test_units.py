"""The units of systemd: well-formed, strict, and not so strict that the service does not work under them."""

from __future__ import annotations

import re
import shutil
import sys
from ctypes.util import find_library
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
ALL = sorted(path for path in UNITS.rglob("*") if path.is_file())
MOST_EXPOSED = 2.0
"""Of systemd-analyze's scale, on which 10 is a service without any limit."""
LIMITS = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "RestrictNamespaces": "yes",
    "MemoryDenyWriteExecute": "yes",
    "UMask": "0077",
}
"""What no service may do without."""

needs_analyzer = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
needs_seccomp = pytest.mark.skipif(find_library("seccomp") is None, reason="libseccomp2 is not installed")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, for a program that is there."""
    for unit in UNITS.glob("*.*"):
        if unit.is_file():
            text = unit.read_text().replace("/opt/suite/bin/suite", sys.executable)
            (tmp_path / unit.name).write_text(text)
    return tmp_path


@needs_analyzer
def test_systemd_finds_nothing_wrong(units: Path) -> None:
    found = analyzed("verify", *(str(units / name) for name in (*SERVICES, "suite-backup.timer")))
    assert str(units) not in found  # of other units on the machine it may have something to say


@needs_analyzer
def test_the_checker_finds_what_is_wrong(units: Path) -> None:
    broken = units / "suite.service"
    broken.write_text(broken.read_text().replace("KillMode=mixed", "KillMode=kind"))
    assert "kill mode" in analyzed("verify", str(broken))


@needs_analyzer
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_can_do_little_else(units: Path, service: str) -> None:
    said = analyzed("security", "--offline=yes", str(units / service))
    (score,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert float(score) <= MOST_EXPOSED


@needs_analyzer
@pytest.mark.parametrize("example", sorted(UNITS.glob("*.d/*.example")), ids=lambda path: path.stem)
def test_a_drop_in_is_understood(units: Path, example: Path) -> None:
    drop_in = units / example.parent.name / example.stem
    drop_in.parent.mkdir()
    shutil.copyfile(example, drop_in)
    assert str(units) not in analyzed("verify", str(units / example.parent.name.removesuffix(".d")))


def test_a_gateway_is_started_again_for_as_long_as_nats_is_away() -> None:
    assert values("suite-gateway.service", "StartLimitIntervalSec") == ["0"]


def test_a_backup_finds_nats_where_the_node_does() -> None:
    (settings,) = values("suite.service", "EnvironmentFile")
    assert values("suite-backup.service", "EnvironmentFile") == [settings]
    assert values("suite-backup.service", "IPAddressDeny") == ["any"]
    drop_in = "suite-backup.service.d/nats-elsewhere.conf.example"
    assert values(drop_in, "IPAddressAllow")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_every_limit(service: str) -> None:
    assert {name: values(service, name) for name in LIMITS} == {
        name: [value] for name, value in LIMITS.items()
    }
    (calls,) = values(service, "SystemCallFilter")
    assert calls.split()[0] == "@system-service"
    assert values(service, "User") == ["suite"]


@pytest.mark.parametrize("unit", ALL, ids=lambda path: path.name)
def test_every_line_is_a_setting_of_a_section(unit: Path) -> None:
    lines = [line for line in unit.read_text().splitlines() if line and not line.startswith("#")]
    assert re.fullmatch(r"\[[A-Z]\w+\]", lines[0])
    assert [line for line in lines if not re.fullmatch(r"\[[A-Z]\w+\]|[A-Z]\w+=.*", line)] == []


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


@needs_analyzer
@needs_seccomp
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
