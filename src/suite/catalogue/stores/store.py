"""What a store of another program has: models under that program's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from suite.messages.actions.status import Source


class StoredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model as its store names it. Only names, links and small JSON files were read for it."""

    name: str
    """What it is called with the other program; in a Hugging Face cache, the name of its file."""
    path: Path
    """Its file; of a split model, the first part."""
    home: Path
    """The folder of the store that its links may lead to, wherever the model directories end."""
    source: Source
    repository: str | None = None
    """Where the other program has it from, such as `bartowski/Llama-3.2-1B-Instruct-GGUF`."""
    revision: str | None = None
    """The revision of the repository, unless it is the current one."""
    aliases: tuple[str, ...] = ()
    sha256: str | None = None
    """The digest of the file, as the store claims: it is not to be believed without reading the file."""
    problem: str | None = None
    """Why it cannot be served, if that is known without opening the file."""
    context_tokens: int | None = None
    """The context that the store wants for it."""
    defaults: Mapping[str, Any] = {}
    """Values for what a request to generate leaves out, by the names of its fields."""


class Store(Protocol):
    """A folder in the layout of another program. It is only read."""

    def models(self, warnings: list[str]) -> Iterator[StoredModel]:
        """Yield its models, and add to `warnings` what was left out, and why. Blocks."""
        ...
