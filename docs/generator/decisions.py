"""The list of the decisions (ADRs), from their files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from generator.markdown import table

_INTRODUCTION = """\
# Decisions

A decision that somebody could want to undo has a page: its context, what was decided, and the consequences
(an ADR, architecture decision record). The numbers have gaps where a decision was dropped before it was
built.
"""


class Decision(NamedTuple):
    """A decision, and the file that it stands in."""

    number: int
    title: str
    file_name: str


def page(directory: Path) -> str:
    """The page as Markdown."""
    rows = [(str(each.number), f"[{each.title}]({each.file_name})") for each in decisions(directory)]
    return _INTRODUCTION + "\n" + table(("Number", "Decision"), rows)


def decisions(directory: Path) -> list[Decision]:
    """All decisions of a directory by number. Raises ValueError for one without a title."""
    found = []
    for path in sorted(directory.glob("[0-9]*.md")):
        heading = re.match(r"# (\d+)\. (.+)", path.read_text(encoding="utf-8"))
        if heading is None:
            raise ValueError(f"{path} does not begin with '# NUMBER. TITLE'")
        found.append(Decision(int(heading[1]), heading[2], path.name))
    return found
