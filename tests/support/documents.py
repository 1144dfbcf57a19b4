"""Markdown files whose examples are run: their blocks, and a shell that compares what it prints with them.

A block of the language ``console`` is a session: lines that begin with ``$ `` are commands, the lines below
one are what it prints, and those that begin with ``> `` are typed into it. ``^C`` ends what was started
before. What differs from run to run (numbers, times, ids, widths) is not compared, and what a model writes
neither: a comment above the block says so.

    <!-- test: answer -->          a model wrote most of the lines
    <!-- test: stays -->           the last command goes on; its first lines are compared
    <!-- test: two terminals -->   the second command is for another terminal (`test_programs` runs both)

With ``WRITE_DOCS=1`` in the environment the blocks are written anew with what was really printed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from support.models import CHAT_TEMPLATE, SMOLLM2, tiny_model

REPOSITORY = Path(__file__).resolve().parents[2]
WRITING = os.environ.get("WRITE_DOCS") == "1"

_BLOCK = re.compile(
    r"(?:^ *<!-- test: (?P<test>.*?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w+)(?: title=\"(?P<title>[^\"]*)\")?\n"
    r"(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_VARIABLE = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}\b"), "ID"),
    (re.compile(r"(?<=_id=)[0-9a-f]{8}\b"), "ID"),
    (re.compile(r"\d+(?:[.,]\d+)*(?: (?:ms|s|min|h|KiB|MiB|GiB)\b)"), "QUANTITY"),
    (re.compile(r"(?<![A-Za-z\d])\d+(?:[.,:]\d+)*"), "NUMBER"),
    (re.compile(r" NUMBER of NUMBER guesses right,"), ""),  # where guessing was measured to pay
    (re.compile(r"(settings_key=\w+) version=NUMBER\b"), r"\1"),  # of a model, once its content is known
    (re.compile(r"\((?:stop|length)\)"), "(END)"),
    (re.compile(r"[━╸╺ \t]+"), " "),
)

_FRAME = re.compile(r"\[|>|loading |NUMBER tokens \(END\)")
"""How lines about an answer begin: of the tutorial's program, typed ones, progress, and counts."""


class Block(NamedTuple):
    """A fenced block of a file."""

    language: str
    title: str
    test: str
    """What the comment above it says to the test."""
    body: str
    """Without the indentation of the fence."""
    start: int
    end: int
    """The place of the body in the file's text."""


class Step(NamedTuple):
    """A command of a session, and what it prints."""

    command: str
    output: str


def blocks(text: str) -> Iterator[Block]:
    """All fenced blocks of a file that have a language."""
    for found in _BLOCK.finditer(text):
        indent = len(found["indent"])
        body = "".join(line[indent:] for line in found["body"].splitlines(keepends=True))
        yield Block(found["language"], found["title"] or "", found["test"] or "", body, *found.span("body"))


def examples(path: Path, *languages: str) -> list[Block]:
    """The blocks of a file that are in one of these languages."""
    return [block for block in blocks(path.read_text(encoding="utf-8")) if block.language in languages]


def steps(session: str) -> list[Step]:
    """The commands of a session. One that ends with a backslash goes on in the next line."""
    found: list[Step] = []
    lines = iter(session.splitlines(keepends=True))
    for line in lines:
        if line.startswith("$ ") or line == "^C\n":
            command = line.removeprefix("$ ")
            while command.endswith("\\\n"):
                command += next(lines)
            found.append(Step(command.removesuffix("\n"), ""))
        else:
            found[-1] = found[-1]._replace(output=found[-1].output + line)
    return found


def typed(step: Step) -> list[str]:
    """The lines that a person types into a command."""
    return [line.removeprefix("> ") for line in step.output.splitlines() if line.startswith("> ")]


def session(steps: list[Step]) -> str:
    """The text of a session."""
    return "".join(f"{'' if each.command == '^C' else '$ '}{each.command}\n{each.output}" for each in steps)


def alike(printed: str) -> list[str]:
    """The lines without what differs from run to run."""
    for pattern, name in _VARIABLE:
        printed = pattern.sub(name, printed)
    return [line.strip() for line in printed.strip().splitlines()]


def alike_answer(printed: str) -> list[str]:
    """What is compared of an answer: that there is one, and the lines that no model wrote."""
    lines = alike(printed)
    frame = [line for line in lines if _FRAME.match(line)]
    return [*(["TEXT"] if len(lines) > len(frame) else []), *frame]


def rewritten(text: str, bodies: dict[Block, str]) -> str:
    """The file's text with other bodies in some of its blocks, which are not indented."""
    for block, body in sorted(bodies.items(), key=lambda each: each[0].start, reverse=True):
        text = text[: block.start] + body + text[block.end :]
    return text


def stand_in(directory: Path) -> Path:
    """A folder with a small model of random weights under the id that the examples use."""
    models = directory / "models"
    models.mkdir()
    tiny_model(models / SMOLLM2, chat_template=CHAT_TEMPLATE, context=2048)
    return models
