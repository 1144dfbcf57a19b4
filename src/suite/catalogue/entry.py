"""What a folder of models says of one of them, before its file is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import msgspec

ParameterValue: TypeAlias = str | int | float | bool | tuple[str, ...]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is named as a model, in whatever kind of folder."""

    ids: tuple[str, ...]
    """The ids that it may get, the preferred one first; the others say more of where it is, to be unique."""
    path: Path
    """The absolute path of its file, maybe a link; of a split model, of the first part."""
    unfinished: Path | None = None
    """The file that shows that it is not whole: a download under way, a part whose first part is missing."""
    source: str = "directory"
    """In a word, where it comes from: "directory" is a plain folder."""
    roots: tuple[Path, ...] = ()
    """Where its file may really be, if it is a link; besides the model directories."""
    chat_template: str | None = None
    """The template that comes with it, in place of that in its file."""
    parameters: dict[str, ParameterValue] = {}
    """Defaults of generations that come with it."""
