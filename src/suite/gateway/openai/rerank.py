"""``/v1/rerank``: how well documents fit a query, in the form that Jina's and Cohere's APIs have."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from suite.gateway.generations import Fields
from suite.gateway.openai.usage import InputUsage
from suite.messages.actions.base import LoadWait
from suite.messages.actions.ranking import RankedDocument, RerankReply


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A document that is an object."""

    text: Annotated[str, Meta(min_length=1)]


class RerankQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A request to ``/v1/rerank``. Unknown parameters are ignored."""

    model: Annotated[str, Meta(min_length=1)]
    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[
        tuple[Annotated[str, Meta(min_length=1)] | Document, ...], Meta(min_length=1, max_length=1000)
    ]
    top_n: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    """Answer only with the best so many."""
    return_documents: bool | None = None
    """True: with the texts of the documents."""
    load_wait_ms: LoadWait = None
    """As in the service's ``rerank``, like the next one."""
    keep_alive: float | Literal["forever", "now"] | None = None

    @property
    def wishes(self) -> Fields:
        """The fields for the service that may need rights."""
        return {"keep_alive": self.keep_alive}

    @property
    def texts(self) -> tuple[str, ...]:
        """The documents as texts."""
        return tuple(each if isinstance(each, str) else each.text for each in self.documents)


read_rerank: Final = msgspec.json.Decoder(RerankQuery).decode


class Ranked(msgspec.Struct, frozen=True, kw_only=True):
    """A document and its score."""

    index: int
    """Its place in the request, from 0."""
    relevance_score: float
    """0 to 1."""
    document: Document | UnsetType = UNSET


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/v1/rerank``: the documents, the best first."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: tuple[Ranked, ...]
    usage: InputUsage


def ranking(reply: RerankReply, *, id: str) -> Ranking:
    """The answer of the service's reply."""
    return Ranking(
        id=id,
        model=reply.model_id,
        results=tuple(map(_ranked, reply.results)),
        usage=InputUsage.of(reply.usage.prompt_tokens),
    )


def _ranked(each: RankedDocument) -> Ranked:
    document = UNSET if each.document is None else Document(text=each.document)
    return Ranked(index=each.index, relevance_score=each.score, document=document)
