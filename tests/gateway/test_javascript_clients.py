"""OpenAI's client for Node and Vercel's AI SDK before the gateway, with their helpers for zod."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from support.example_programs import javascript
from support.gateway import RunningGateway

SECONDS = 170


@pytest.fixture(scope="module")
def told(gateway: RunningGateway) -> dict[str, Any]:
    """What each question of the example got."""
    command = javascript("ask_over_http.mjs", gateway.url, "smollm2", "tiny")
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return {name: found for line in done.stdout.splitlines() for name, found in json.loads(line).items()}


@pytest.mark.timeout(180)  # with the time of the fixture
@pytest.mark.parametrize("library", ["openai", "ai"])
def test_a_library_gets_what_it_asks_for(told: dict[str, Any], library: str) -> None:
    assert told[f"{library} text"]
    assert told[f"{library} stream"]["pieces"]
    assert told[f"{library} tool"]["city"] in ("Paris", "Rome")
    answer = told[f"{library} object"]
    assert answer["name"] in ("Paris", "Rome")
    assert isinstance(answer["isCapital"], bool)
    one, two = told[f"{library} vectors"]
    assert len(one) == len(two) == 64
    error = told[f"{library} error"]
    assert error["status"] == 404
    assert "did you mean 'smollm2'" in error["message"]


def test_what_only_one_of_them_tells(told: dict[str, Any]) -> None:
    assert told["openai stream"]["pieces"] == told["openai stream"]["whole"]
    assert told["openai cancel"] is True
    assert told["openai error"]["code"] == "model_not_found"
    assert told["ai stream"]["tokens"] == 6
