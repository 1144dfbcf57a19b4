"""Sets of questions: what each line means, and which lines are broken."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.domain.judging import judge_prompt, verdict
from suite.domain.question_set import read_set
from suite.errors import InvalidRequest, TooLarge
from suite.messages.benchmarks import SET_BYTES, SET_LINES, Question

GOOD = '{"prompt": "x", "contains": "y"}'


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nothing", "malformed"),
        ("[]", "Expected `object`"),
        ('{"contains": "y"}', "missing required field `prompt`"),
        ('{"prompt": "", "contains": "y"}', "length >= 1"),
        ('{"prompt": "x"}', "it has none"),
        ('{"prompt": "x", "exact": "y", "judge": "z"}', "it has exact and judge"),
        ('{"prompt": "x", "expected": "y"}', "unknown field `expected`"),
        ('{"prompt": "x", "judge": "y", "ignore_case": true}', "no meaning with judge"),
        ('{"prompt": "x", "exact": "y", "max_tokens": 0}', "max_tokens"),
        ('{"prompt": "x", "json_schema": %s}' % ('{"const":' * 300 + "1" + "}" * 300), "nested too deeply"),
    ],
)
def test_a_broken_line_is_named_and_the_others_count(line: str, problem: str) -> None:
    found = read_set(f"{GOOD}\n\n{line}\n{GOOD}")
    assert [each.line for each in found.questions] == [1, 4]
    (broken,) = found.broken
    assert broken.line == 3 and problem in broken.problem
    found.require_questions()


def test_a_set_that_asks_nothing_is_refused_with_its_first_problem() -> None:
    for text, told in (("", "empty"), ("\n \n", "empty"), ("\n[", "line 2: "), ("[\n[", "all 2 lines")):
        with pytest.raises(InvalidRequest, match=told):
            read_set(text).require_questions()


def test_a_set_has_limits() -> None:
    with pytest.raises(TooLarge, match=f"{SET_BYTES:,} bytes"):
        read_set("ü" * (SET_BYTES // 2 + 1))
    with pytest.raises(InvalidRequest, match=str(SET_LINES)):
        read_set("{}\n" * (SET_LINES + 1))


def test_lines_that_turn_out_broken_later_are_left_out_in_order() -> None:
    found = read_set(f"{GOOD}\n[\n{GOOD}").without({1: "it is bad"})
    assert [each.line for each in found.questions] == [3]
    assert [each.line for each in found.broken] == [1, 2] and found.broken[0].problem == "it is bad"


def test_the_digest_is_of_the_questions_and_not_of_how_they_are_written() -> None:
    other = '{"contains":"y",   "prompt":"x", "max_tokens": 256}'
    assert read_set(GOOD).sha256 == read_set(f"\n{other}\n[").sha256 != read_set(f"{GOOD}\n{GOOD}").sha256


@given(st.text())
def test_whatever_is_sent_is_read(text: str) -> None:
    found = read_set(text)
    assert len(found.questions) + len(found.broken) == sum(bool(line.strip()) for line in text.split("\n"))


@given(st.lists(st.text(min_size=1), max_size=20))
def test_what_is_written_as_json_is_asked_as_it_is(prompts: list[str]) -> None:
    text = "\n".join(json.dumps({"prompt": each, "contains": "y"}) for each in prompts)
    assert [each.question.prompt for each in read_set(text).questions] == prompts


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("PASS", "passed"),
        (" **Pass.**", "passed"),
        ("FAIL: it names another city", "failed"),
        ("failed", "failed"),
        ("PASS or FAIL?", "unclear"),
        ("FAIL, or rather PASS", "unclear"),
        ("The answer should PASS", "unclear"),
        ("Passport", "unclear"),
        ("Bananas.", "unclear"),
        ("", "unclear"),
    ],
)
def test_a_verdict_is_one_word_and_all_else_is_unclear(said: str, outcome: str) -> None:
    assert verdict(said) == outcome


def test_a_judge_sees_question_answer_and_what_to_judge_by() -> None:
    _, asked = judge_prompt(Question(prompt="Who?", judge="It is a name."), "Ada")
    assert all(each in asked for each in ("Who?", "Ada", "It is a name."))
