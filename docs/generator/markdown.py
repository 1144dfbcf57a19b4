"""Markdown as text: tables, anchors, and the docstrings of the code as prose."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import griffe

import suite


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
    return f"`{text}`" if text else ""


def field_notes(module: str) -> dict[str, dict[str, str]]:
    """The docstring under each field of each class of a module, by class and field."""
    loaded = griffe.load(module, search_paths=[Path(suite.__file__).parents[1]])
    return {
        name: {
            field: prose(attribute.docstring.value)
            for field, attribute in kind.attributes.items()
            if attribute.docstring is not None
        }
        for name, kind in loaded.classes.items()
    }


def _cell(text: str) -> str:
    paragraphs = [" ".join(each.split()) for each in text.strip().split("\n\n")]
    return "<br>".join(paragraphs).replace("|", "\\|")
