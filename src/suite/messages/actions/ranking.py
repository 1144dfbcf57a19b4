"""Ranks: how well documents fit a query."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from suite.messages.actions.base import KeepAlive, LoadWait, ModelId, Reply, Request, Text
from suite.messages.actions.generation import Usage


class RerankRequest(Request, frozen=True, kw_only=True):
    """Score documents by how well they fit a query; the model is loaded first if it is not.

    It takes a model with a ranking head (a reranker, or cross-encoder), one with the capability ``rerank``.
    """

    model_id: ModelId
    query: Text
    documents: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=1000)]
    """Each must fit into the model's context together with the query."""
    top_n: Annotated[int, Meta(ge=1)] | None = None
    """Reply only with the best so many; null: with all."""
    return_documents: bool = True
    """False: the results have the indexes of documents, and not their texts."""
    raw_scores: bool = False
    """True: the scores are what the model's head says, on a scale of its own; most say logits."""
    load_wait_ms: LoadWait = None
    keep_alive: KeepAlive = None
    requester: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    """For whom it is done, such as the id of an API key. It stands in the event of the use."""


class RankedDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A document and its score."""

    index: int
    """Its place in the request, from 0."""
    score: float
    """How well it fits: 0 to 1, the sigmoid of the model's logit or the probability that it says itself."""
    document: str | None = None
    """Null with ``return_documents: false``."""


class RerankReply(Reply, frozen=True, kw_only=True):
    """The documents, the best first."""

    model_id: str
    results: tuple[RankedDocument, ...]
    usage: Usage
    seq: int
    """The sequence of the ``usage.recorded`` event of this use."""
