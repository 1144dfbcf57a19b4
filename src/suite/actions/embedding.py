"""embed."""

from __future__ import annotations

from suite.actions.residency import WAITING
from suite.bus.service import Call, action
from suite.errors import CannotEmbed
from suite.messages.actions.embedding import EmbedReply, EmbedRequest
from suite.messages.actions.generation import Usage
from suite.messages.actor import Embed, Embedded
from suite.messages.events import UsageRecorded
from suite.node.actor_client import EMBED_SECONDS
from suite.node.node import Node

USAGE_TYPE = "embedding"


@action("embed", limit=WAITING, queue=0, route="model")
async def embed(node: Node, request: EmbedRequest, call: Call) -> EmbedReply:
    """Turn texts into vectors."""
    model = await node.loadable(request.model_id)
    if model.info is not None and not model.info.embeds:
        raise CannotEmbed
    embedded = await node.dispatcher.ask(
        model,
        "embed",
        Embed(
            inputs=request.inputs,
            dimensions=request.dimensions,
            normalize=request.normalize,
            seconds=EMBED_SECONDS,
        ),
        Embedded,
        seconds=EMBED_SECONDS,
        terms=node.terms(request.load_wait_ms, request.keep_alive),
        correlation_id=call.request_id,
    )
    used = UsageRecorded(
        model_id=model.model_id,
        usage_type=USAGE_TYPE,
        node=node.name,
        requester=request.requester,
        version=node.versions.number(model),
    )
    seq = await node.log.append(used, correlation_id=call.request_id)
    return EmbedReply(
        model_id=model.model_id,
        embeddings=embedded.embeddings,
        dimensions=len(embedded.embeddings[0]),
        usage=Usage(prompt_tokens=embedded.tokens, reused_tokens=0, completion_tokens=0),
        seq=seq,
    )
