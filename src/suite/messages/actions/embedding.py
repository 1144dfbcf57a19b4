"""Embeddings: vectors of texts."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from suite.messages.actions.base import KeepAlive, LoadWait, ModelId, Reply, Request, Text
from suite.messages.actions.generation import Usage


class EmbedRequest(Request, frozen=True, kw_only=True):
    """Turn texts into vectors; the model is loaded first if it is not."""

    model_id: ModelId
    input: Text | Annotated[tuple[Text, ...], Meta(min_length=1, max_length=256)]
    """One text or several. Each must fit into the model's context, or into 2048 tokens if the model was not
    made for embeddings."""
    normalize: bool = True
    """True: the vectors have length 1, so that the dot product of two is their cosine similarity."""
    load_wait_ms: LoadWait = None
    keep_alive: KeepAlive = None


class EmbedReply(Reply, frozen=True, kw_only=True):
    """A vector for each text, in the same order."""

    model_id: str
    embeddings: tuple[tuple[float, ...], ...]
    dimensions: int
    usage: Usage
    seq: int
