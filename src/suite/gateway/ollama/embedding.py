"""``/api/embed``, and ``/api/embeddings``, which is older."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from suite.gateway.encoding import Integer
from suite.gateway.ollama.keep_alive import KeepAliveRequest
from suite.gateway.ollama.names import reader
from suite.gateway.vectors import Batch, batches


class OllamaEmbedRequest(KeepAliveRequest, frozen=True, kw_only=True):
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


class OllamaEmbeddingRequest(KeepAliveRequest, frozen=True, kw_only=True):
    """A request to ``/api/embeddings``."""

    prompt: str | None = None


class OllamaEmbedding(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/api/embeddings``."""

    embedding: tuple[float, ...]


read_embed: Final = reader(OllamaEmbedRequest)
read_embedding: Final = reader(OllamaEmbeddingRequest)
