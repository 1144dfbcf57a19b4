"""Reads a set of questions, JSON lines: broken lines are named, and the others count::

{"prompt": "What is the capital of France?", "contains": "Paris"}
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from suite.errors import InvalidJson, InvalidRequest, TooLarge, shortened
from suite.messages.benchmarks import SET_BYTES, SET_LINES, BrokenLine, NumberedQuestion, Question
from suite.messages.nesting import check_nesting

_WAYS: Final = ("exact", "contains", "pattern", "json_schema", "judge")
_TOLD: Final = 100
"""So many broken lines are told; all are counted."""
_PROBLEM_CHARACTERS: Final = 200

_decode = msgspec.json.Decoder(Question).decode
_encode = msgspec.json.Encoder(order="deterministic").encode


class QuestionSet(NamedTuple):
    """What a set asks."""

    questions: tuple[NumberedQuestion, ...] = ()
    broken: tuple[BrokenLine, ...] = ()
    """The lines that ask nothing."""

    def without(self, problems: Mapping[int, str]) -> QuestionSet:
        """The set without some more lines, by line what is wrong with each."""
        kept = tuple(each for each in self.questions if each.line not in problems)
        broken = (
            *self.broken,
            *(_broken(line, problem) for line, problem in problems.items()),
        )
        return QuestionSet(kept, tuple(sorted(broken, key=lambda each: each.line)))

    @property
    def told(self) -> tuple[BrokenLine, ...]:
        """The broken lines that there is room to tell of."""
        return self.broken[:_TOLD]

    @property
    def sha256(self) -> str:
        """The digest of the questions; empty without any."""
        if not self.questions:
            return ""
        return hashlib.sha256(_encode([each.question for each in self.questions])).hexdigest()

    def require_questions(self) -> None:
        """Check that anything is asked. Raises InvalidRequest."""
        if self.questions:
            return
        if not self.broken:
            raise InvalidRequest("the set is empty: send a line of JSON for each question")
        first = self.broken[0]
        count = f"all {len(self.broken)} lines are broken" if len(self.broken) > 1 else "its line is broken"
        raise InvalidRequest(f"the set asks nothing, {count}: line {first.line}: {first.problem}")


def require_size(text: str) -> None:
    """Check, before a set is sent, that it is not larger than it may be. Raises TooLarge."""
    if (size := len(text.encode())) > SET_BYTES:
        raise TooLarge(
            f"the set of questions has {size:,} bytes, and {SET_BYTES >> 10} KiB ({SET_BYTES:,} bytes) is "
            "the limit: split it into several benchmarks of one cycle"
        )


def read_set(text: str) -> QuestionSet:
    """Read a set. Empty lines are left out. Raises TooLarge, and InvalidRequest for too many lines."""
    require_size(text)
    lines = [(line, each) for line, each in enumerate(text.split("\n"), 1) if each.strip()]
    if len(lines) > SET_LINES:
        raise InvalidRequest(
            f"the set has {len(lines)} lines, and at most {SET_LINES} are possible: split it"
        )
    questions: list[NumberedQuestion] = []
    broken: list[BrokenLine] = []
    for line, each in lines:
        try:
            questions.append(NumberedQuestion(line=line, question=_question(each)))
        except (InvalidJson, InvalidRequest) as error:
            broken.append(_broken(line, error.message))
    return QuestionSet(tuple(questions), tuple(broken))


def _question(line: str) -> Question:
    """Read a line. Raises InvalidRequest, and InvalidJson for one that is nested too deeply."""
    try:
        question = _decode(line)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise InvalidRequest(str(error)) from None
    check_nesting(line.encode())
    ways = list(_ways(question))
    if len(ways) != 1:
        given = f"it has {' and '.join(ways)}" if ways else "it has none"
        raise InvalidRequest(f"exactly one of {', '.join(_WAYS)} says what is right: {given}")
    if question.ignore_case and ways[0] in ("json_schema", "judge"):
        raise InvalidRequest(f"ignore_case has no meaning with {ways[0]}: leave it out")
    return replace(question, exact=question.exact.strip()) if question.exact is not None else question


def _ways(question: Question) -> Iterator[str]:
    return (way for way in _WAYS if getattr(question, way) is not None)


def _broken(line: int, problem: str) -> BrokenLine:
    return BrokenLine(line=line, problem=shortened(problem, _PROBLEM_CHARACTERS))
