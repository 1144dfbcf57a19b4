"""The command lines of the examples, as a reader would run them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def python(name: str, *arguments: object) -> list[str]:
    return [sys.executable, str(EXAMPLES / name), *map(str, arguments)]


def javascript(name: str, *arguments: object) -> list[str]:
    """With the node of the machine, else with the one that came as a wheel."""
    if not all((EXAMPLES / "node_modules" / name).is_dir() for name in ("@nats-io", "ai", "openai")):
        pytest.fail("the packages are not there: `make test` fetches them, and says why if npm cannot")
    node = shutil.which("node") or str(Path(sys.executable).with_name("node"))
    return [node, str(EXAMPLES / name), *map(str, arguments)]
