"""The commands that alerts and dashboards tell a reader to run."""

from __future__ import annotations

import re

import pytest

from suite.cli.main import COMMANDS
from support.documents import REPOSITORY

SHOWN = ("prometheus/alerts.yml", "grafana/suite.json")


@pytest.mark.parametrize("name", SHOWN)
def test_every_command_is_one_that_there_is(name: str) -> None:
    text = (REPOSITORY / "deploy" / name).read_text()
    named = set(re.findall(r"\bsuite ([a-z][a-z-]*)", text))
    assert named
    assert named <= set(COMMANDS)
