"""Vectors of texts."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from suite.messages.actions.base import ModelId, Reply, Request, Text
from suite.messages.actions.generation import Usage


class EmbedRequest(Request, frozen=True, kw_only=True):
    """Turn texts into vectors; the model is loaded first if it is not."""

    model_id: ModelId
    input: Text | Annotated[tuple[Text, ...], Meta(min_length=1, max_length=256)]
    """One text or several; each has to fit into the model's context, at most 2048 tokens for a model that
    was not made for embeddings."""
    normalize: bool = True
    """True: vectors of length 1, so that the dot product of two is their cosine."""


class EmbedReply(Reply, frozen=True, kw_only=True):
    """A vector for each text, in their order."""

    model_id: str
    embeddings: tuple[tuple[float, ...], ...]
    dimensions: int
    usage: Usage
    seq: int
