"""``/api/embed``, and ``/api/embeddings``, which is older."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from suite.gateway.encoding import Integer
from suite.gateway.generations import Fields
from suite.gateway.ollama.keep_alive import Stay, stay
from suite.gateway.ollama.names import reader
from suite.gateway.vectors import Batch, batches


class _EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: Annotated[str, Meta(min_length=1)]
    keep_alive: float | str | None = None

    @property
    def stay(self) -> Stay | None:
        """How long the model stays loaded; None: as it is."""
        return None if self.keep_alive is None else stay(self.keep_alive)

    @property
    def wishes(self) -> Fields:
        """The fields for the service that may need rights. Raises InvalidRequest."""
        return {"keep_alive": self.stay}


class OllamaEmbedRequest(_EmbeddingRequest, frozen=True, kw_only=True):
    """A request to ``/api/embed``. Unknown fields are ignored."""

    input: str | tuple[str, ...]
    dimensions: Integer | None = None

    @property
    def batches(self) -> Iterator[Batch]:
        """The texts, as many at once as the service takes. Raises InvalidRequest for too many."""
        return batches((self.input,) if isinstance(self.input, str) else self.input)


class OllamaEmbedded(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/api/embed``; times in nanoseconds."""

    model: str
    embeddings: tuple[tuple[float, ...], ...]
    total_duration: int
    load_duration: int = 0
    prompt_eval_count: int


class OllamaEmbeddingRequest(_EmbeddingRequest, frozen=True, kw_only=True):
    """A request to ``/api/embeddings``."""

    prompt: str | None = None


class OllamaEmbedding(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/api/embeddings``."""

    embedding: tuple[float, ...]


read_embed: Final = reader(OllamaEmbedRequest)
read_embedding: Final = reader(OllamaEmbeddingRequest)
