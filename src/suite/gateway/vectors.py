"""The one way on which a request of any dialect has texts turned into vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias, TypeVar

from starlette.requests import Request

from suite.errors import InvalidRequest
from suite.gateway.context import context_of
from suite.gateway.gateway import Gateway
from suite.messages.actions.base import KeepAlive
from suite.messages.actions.embedding import INPUT_LIMIT, EmbedReply

MOST_INPUTS: Final = 2048
"""How many inputs one request may have."""

Batch: TypeAlias = Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
"""Inputs that go to the service at once: texts, the token ids of one text, or those of several."""
T = TypeVar("T")


def batches(inputs: Sequence[T]) -> Iterator[Sequence[T]]:
    """Inputs, as many at once as the service takes. Raises InvalidRequest for too many."""
    if len(inputs) > MOST_INPUTS:
        raise InvalidRequest(f"input has over {MOST_INPUTS} inputs: send several requests", param="input")
    return (inputs[start : start + INPUT_LIMIT] for start in range(0, len(inputs), INPUT_LIMIT))


async def embedded(
    gateway: Gateway,
    request: Request,
    model: str,
    batches: Iterator[Batch],
    *,
    dimensions: int | None = None,
    normalize: bool = True,
    load_wait_ms: int | None = None,
    keep_alive: KeepAlive = None,
) -> list[EmbedReply]:
    """The service's reply to each batch. Each is charged as it comes, also if a later one fails.

    Raises what `Gateway.patiently` raises.
    """
    context = context_of(request.scope)
    requester = context.requester

    async def embed(load_wait_ms: int) -> list[EmbedReply]:
        replies = []
        for batch in batches:
            reply = await gateway.client.embed(
                model,
                batch,
                dimensions=dimensions,
                normalize=normalize,
                load_wait_ms=load_wait_ms,
                keep_alive=keep_alive,
                requester=requester,
            )
            context.node = reply.node or None
            gateway.access.charge(requester, reply.usage.prompt_tokens)
            replies.append(reply)
        return replies

    return await gateway.patiently(request, model, load_wait_ms, embed)
