"""rerank."""

from __future__ import annotations

from suite.actions.residency import WAITING
from suite.bus.service import Call, action
from suite.errors import CannotRerank
from suite.messages.actions.generation import Usage
from suite.messages.actions.ranking import RankedDocument, RerankReply, RerankRequest
from suite.messages.actor import Rank, Ranked
from suite.messages.events import UsageRecorded
from suite.node.actor_client import EMBED_SECONDS
from suite.node.node import Node

USAGE_TYPE = "rerank"


@action("rerank", limit=WAITING, queue=0, route="model")
async def rerank(node: Node, request: RerankRequest, call: Call) -> RerankReply:
    """Score documents by how well they fit a query, the best first."""
    model = await node.loadable(request.model_id)
    if model.info is not None and not model.info.ranks:
        raise CannotRerank(
            f"{model.model_id} has no head that ranks documents, it {model.info.purpose}: "
            "choose a model with the capability 'rerank'"
        )
    ranked = await node.dispatcher.ask(
        model,
        "rank",
        Rank(
            query=request.query,
            documents=request.documents,
            raw=request.raw_scores,
            seconds=EMBED_SECONDS,
        ),
        Ranked,
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
    return RerankReply(
        model_id=model.model_id,
        results=_best(request, ranked.scores),
        usage=Usage(prompt_tokens=ranked.tokens, reused_tokens=0, completion_tokens=0),
        seq=seq,
    )


def _best(request: RerankRequest, scores: tuple[float, ...]) -> tuple[RankedDocument, ...]:
    """The documents in the order of their scores; of equal ones the first comes first."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return tuple(
        RankedDocument(
            index=index,
            score=scores[index],
            document=request.documents[index] if request.return_documents else None,
        )
        for index in order[: request.top_n]
    )
