"""One model of the catalogue, and what a scan of the directories changed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from suite.catalogue.files import ModelFile
from suite.config import ModelSettings
from suite.engine.gguf.estimate import kv_bytes_per_token
from suite.engine.gguf.file import GgufInfo
from suite.errors import SuiteError
from suite.messages.actions.status import MemoryEstimate

DEFAULT_CONTEXT_TOKENS = 4096
"""At most, where the settings say nothing: contexts that models are trained for can take many gigabytes."""
CACHE_BYTES = 128 << 20
"""What the cache takes at most where the settings say nothing and one context needs less."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model file under its id. Frozen: what a scan finds anew replaces it in the catalogue."""

    model_id: str
    file: ModelFile
    info: GgufInfo | None
    """None when there is an error."""
    error: SuiteError | None
    """Why the file cannot be loaded."""
    sha256: str | None
    """None until the file has been read through once."""
    settings: ModelSettings
    context_tokens: int
    """What one conversation has room for; 0 when there is an error."""
    cache_tokens: int
    """What all conversations in memory have room for together; 0 when there is an error."""
    estimate: MemoryEstimate | None

    @property
    def path(self) -> Path:
        """Its file, absolute; of a split model the first part."""
        return self.file.path

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return self.file.path.name

    @property
    def display_name(self) -> str:
        """What to call it in front of people."""
        return self.settings.display_name or self.model_id

    @property
    def capabilities(self) -> tuple[str, ...]:
        """As configured, else what the file hints at."""
        return self.settings.capabilities or (self.info.capabilities if self.info else ())

    @property
    def need_bytes(self) -> int:
        """What loading it will take, as estimated."""
        return self.estimate.total_bytes if self.estimate else 0


def context_tokens(settings: ModelSettings, info: GgufInfo) -> int:
    """The context that a model is loaded with."""
    return settings.context_length or min(info.context_tokens, DEFAULT_CONTEXT_TOKENS)


def cache_tokens(settings: ModelSettings, info: GgufInfo) -> int:
    """The tokens that a model's cache is made for, at least those of one context."""
    context = context_tokens(settings, info)
    wanted = settings.cache_tokens or min(
        context * settings.slots, CACHE_BYTES // max(1, kv_bytes_per_token(info))
    )
    return max(context, wanted)


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What came, went, and has other content or another state than before, by id."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)
