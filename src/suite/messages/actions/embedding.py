"""Embeddings: vectors of texts."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

from suite.messages.actions.base import KeepAlive, LoadWait, ModelId, Reply, Request, Text
from suite.messages.actions.generation import TokenId, Usage

INPUT_LIMIT = 256
TokenIds: TypeAlias = Annotated[tuple[TokenId, ...], Meta(min_length=1)]


class EmbedRequest(Request, frozen=True, kw_only=True):
    """Turn texts into vectors; the model is loaded first if it is not."""

    model_id: ModelId
    input: Text | Annotated[tuple[Text | TokenId | TokenIds, ...], Meta(min_length=1)]
    """One text or several, at most 256. Each must fit into the model's context, or into 2048 tokens if the
    model was not made for embeddings. Instead of a text: its token ids, as one list or a list of lists."""
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    """Keep only so many numbers of each vector, from its beginning; for models that were made for that."""
    normalize: bool = True
    """True: the vectors have length 1, so that the dot product of two is their cosine similarity."""
    load_wait_ms: LoadWait = None
    keep_alive: KeepAlive = None
    requester: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    """For whom the vectors are made, such as the id of an API key. It stands in the event of the use."""

    def __post_init__(self) -> None:
        kinds = {type(each) for each in self.input}
        if isinstance(self.input, str) or kinds == {int}:
            return
        if len(kinds) > 1:
            raise ValueError("texts and token ids are mixed: send texts, a list of ids, or lists of ids")
        if len(self.input) > INPUT_LIMIT:
            raise ValueError(f"over {INPUT_LIMIT} inputs: send them in several requests")

    @property
    def inputs(self) -> tuple[str | tuple[int, ...], ...]:
        """Each input, as text or as token ids."""
        if isinstance(self.input, str):
            return (self.input,)
        ids = tuple(each for each in self.input if isinstance(each, int))
        return (ids,) if ids else tuple(each for each in self.input if not isinstance(each, int))


class EmbedReply(Reply, frozen=True, kw_only=True):
    """A vector for each text, in the same order."""

    model_id: str
    embeddings: tuple[tuple[float, ...], ...]
    dimensions: int
    usage: Usage
    seq: int
