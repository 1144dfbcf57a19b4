"""``/v1/embeddings``: vectors of texts, as numbers or as base64 of little-endian float32."""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.gateway.generations import Fields
from suite.gateway.openai.usage import InputUsage
from suite.gateway.vectors import Batch, batches
from suite.messages.actions.base import LoadWait
from suite.messages.actions.embedding import EmbedReply

TokenId: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Input: TypeAlias = str | tuple[int, ...]


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to ``/v1/embeddings``. Unknown parameters are ignored."""

    model: Annotated[str, Meta(min_length=1)]
    input: (
        Annotated[str, Meta(min_length=1)]
        | Annotated[
            tuple[
                Annotated[str, Meta(min_length=1)]
                | TokenId
                | Annotated[tuple[TokenId, ...], Meta(min_length=1)],
                ...,
            ],
            Meta(min_length=1),
        ]
    )
    """A text, token ids, or a list of either."""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    """Keep only so many numbers of each vector, for models that were made for that."""
    load_wait_ms: LoadWait = None
    """As in the service's ``embed``, like the next one."""
    keep_alive: float | Literal["forever", "now"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.input, str):
            return
        kinds = {type(each) for each in self.input}
        if len(kinds) > 1:
            raise ValueError("input has texts and token ids mixed: send texts, or lists of token ids")

    @property
    def batches(self) -> Iterator[Batch]:
        """The inputs, as many at once as the service takes. Raises InvalidRequest for too many."""
        if isinstance(self.input, str):
            return batches((self.input,))
        if isinstance(self.input[0], int):
            return iter((self.input,))  # type: ignore[arg-type]  # all are ids
        return batches(self.input)  # type: ignore[return-value]  # all are texts, or all are lists

    @property
    def wishes(self) -> Fields:
        """The fields for the service that may need rights."""
        return {"keep_alive": self.keep_alive}


read_embedding: Final = msgspec.json.Decoder(EmbeddingRequest).decode


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """The vector of one input."""

    object: Literal["embedding"] = "embedding"
    embedding: tuple[float, ...] | str
    """Its numbers, or base64 of them as little-endian float32."""
    index: int


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/v1/embeddings``: a vector for each input, in the same order."""

    object: Literal["list"] = "list"
    data: tuple[Embedding, ...]
    model: str
    usage: InputUsage


def embedding_list(replies: Sequence[EmbedReply], *, as_base64: bool) -> EmbeddingList:
    """The answer of the service's replies to the batches of one request."""
    vectors = (vector for reply in replies for vector in reply.embeddings)
    return EmbeddingList(
        data=tuple(
            Embedding(embedding=_base64(vector) if as_base64 else vector, index=index)
            for index, vector in enumerate(vectors)
        ),
        model=replies[0].model_id,
        usage=InputUsage.of(sum(reply.usage.prompt_tokens for reply in replies)),
    )


def _base64(vector: tuple[float, ...]) -> str:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
