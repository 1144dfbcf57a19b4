"""Markdown as text: tables, code, and the docstrings of the code as prose."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import griffe


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. Line breaks in a cell become spaces, and an empty line in it a break."""
    lines = ["| " + " | ".join(titles) + " |", "| " + " | ".join("---" for _ in titles) + " |"]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def prose(docstring: str | None) -> str:
    """A docstring as Markdown: double backticks, which mean code in reStructuredText, become single ones."""
    return re.sub(r"``([^`]+)``", r"`\1`", inspect.cleandoc(docstring or ""))


def code(text: str) -> str:
    """Text as code, whatever characters it has."""
    if not text:
        return ""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if "`" in text else ""  # Markdown takes it away again
    return f"{fence}{space}{text}{space}{fence}"


def field_notes(kind: type) -> dict[str, str]:
    """The docstring under each field of a class."""
    file = Path(inspect.getfile(kind))
    module = griffe.visit(kind.__module__, filepath=file, code=file.read_text(encoding="utf-8"))
    attributes = module.classes[kind.__name__].attributes
    return {
        name: prose(attribute.docstring.value)
        for name, attribute in attributes.items()
        if attribute.docstring is not None
    }


def _cell(text: str) -> str:
    paragraphs = [" ".join(each.split()) for each in text.strip().split("\n\n")]
    return "<br>".join(paragraphs).replace("|", "\\|")
