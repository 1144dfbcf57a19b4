"""Answers are checked in a process that a pattern or a schema cannot hold up."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from anyio import to_process

from suite.messages.benchmarks import NumberedQuestion, Question
from suite.node.benchmarks.checking import check, problems

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("right", "answer", "passes"),
    [
        ({"exact": "Paris"}, " Paris\n", True),
        ({"exact": "Paris"}, "paris", False),
        ({"exact": "Paris", "ignore_case": True}, "PARIS", True),
        ({"contains": "Paris"}, "It is Paris.", True),
        ({"contains": "Paris"}, "It is Rome.", False),
        ({"pattern": r"^\d+$"}, "42", True),
        ({"pattern": r"^\d+$"}, "42 or so", False),
        ({"pattern": "PARIS", "ignore_case": True}, "It is Paris.", True),
        ({"json_schema": NUMBER}, '{"n": 1}', True),
        ({"json_schema": NUMBER}, '```json\n{"n": 1}\n```', True),
        ({"json_schema": NUMBER}, '{"n": "1"}', False),
        ({"json_schema": NUMBER}, "It is 1.", False),
        ({"json_schema": NUMBER}, "[" * 100_000, False),
        ({"json_schema": {"$ref": "http://127.0.0.1:9/none"}}, "1", False),
        ({"json_schema": {"$ref": "#/required", "required": ["a"]}}, "1", False),
        ({"pattern": "(?s)(.{1000000}){1000000}"}, "1", False),
    ],
)
async def test_an_answer_passes_if_it_is_right(right: dict[str, Any], answer: str, passes: bool) -> None:
    problem = await check(Question(prompt="x", **right), answer)
    assert (problem is None) == passes, problem


async def test_a_pattern_without_an_end_is_ended_and_the_next_answer_is_checked() -> None:
    endless = Question(prompt="x", pattern="(a|a)*b")
    assert "CPU time" in (await check(endless, "a" * 64) or "")
    assert await check(endless, "ab") is None


async def test_after_one_that_fails_no_time_limit_is_left_for_the_next_work() -> None:
    assert "could not be checked" in (await check(Question(prompt="x", pattern="("), "1") or "")
    assert await to_process.run_sync(signal.getitimer, signal.ITIMER_PROF) == (0.0, 0.0)


async def test_patterns_and_schemas_that_cannot_be_read_are_named() -> None:
    questions = [
        Question(prompt="x", pattern="("),
        Question(prompt="x", json_schema={"type": "number-ish"}),
        Question(prompt="x", pattern="fine"),
        Question(prompt="x", json_schema={"type": "number"}),
        Question(prompt="x", exact="("),
    ]
    found = await problems(tuple(NumberedQuestion(line=n, question=each) for n, each in enumerate(questions)))
    assert found.keys() == {0, 1}
    assert found[0].startswith("pattern: ") and found[1].startswith("json_schema: ")
