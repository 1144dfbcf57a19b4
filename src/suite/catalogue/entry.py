"""What a folder of models says of one of them, before its file is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import msgspec

from suite.catalogue.names import printable
from suite.catalogue.outage import Outage
from suite.messages.actions.status import Source

ParameterValue: TypeAlias = str | int | float | bool | tuple[str, ...]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is named as a model, in whatever kind of folder."""

    ids: tuple[str, ...]
    """The ids that it may get, the preferred one first; the others say more of where it is, to be unique."""
    path: Path
    """The absolute path of its file, maybe a link; of a split model, of the first part."""
    unfinished: Path | None = None
    """The file that shows that it is not whole: a download under way, a part whose first part is missing."""
    named_by: Path | None = None
    """What gives it its ids, if that is not its file: a manifest. The ids follow it to other files."""
    aliases: tuple[str, ...] = ()
    """Other names of it in its store; a configured alias and an id go first."""
    source: Source = "directory"
    """The program whose folder it is in; "directory" is a plain folder."""
    repository: str | None = None
    """Where that program has it from."""
    projectors: tuple[Path, ...] = ()
    """Files beside it that are named as projectors (mmproj), or the one that its store says is its own."""
    roots: tuple[Path, ...] = ()
    """Where its file may really be, if it is a link; besides the model directories."""
    sha256: str | None = None
    """The digest that its store claims; not to be believed without reading the file."""
    problem: str | None = None
    """Why it cannot be served, if its folder knows without a look into the file."""
    outage: Outage | None = None
    """What of its folder is out of reach at the moment, so that no more is known of it."""
    context_tokens: int | None = None
    """The context that it comes with, in tokens."""
    parameters: dict[str, ParameterValue] = {}
    """Values that it comes with for fields of generate_text, for requests that leave them out."""

    @property
    def place(self) -> Path:
        """What its ids are bound to."""
        return self.named_by or self.path

    @property
    def is_unicode(self) -> bool:
        """Whether its paths can be stored and told: on disk a name may be any bytes."""
        paths = (self.path, self.place, self.unfinished or self.path)
        return all(str(path) == printable(path) for path in paths)
