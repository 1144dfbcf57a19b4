"""predict_models, preload_models and select_model."""

from __future__ import annotations

from contextlib import AsyncExitStack

from suite.actions.residency import WAITING
from suite.bus.service import Call, action
from suite.errors import ModelNotFound, SuiteError
from suite.messages.actions.prediction import (
    PredictModelsReply,
    PredictModelsRequest,
    PreloadModelsReply,
    PreloadModelsRequest,
    PreloadOutcome,
    SelectModelReply,
    SelectModelRequest,
)
from suite.node.generations import wait_loaded
from suite.node.node import Node
from suite.projections.trust import trusts

UNKNOWN_TRUST = 0.5
"""The trust assumed for a model about which nothing is known: neither good nor bad."""


@action("predict_models")
async def predict_models(node: Node, request: PredictModelsRequest, _: Call) -> PredictModelsReply:
    """Predict which models will be used next, the likeliest first."""
    predicted = await node.predict(limit=request.limit, min_seq=request.min_seq)
    return PredictModelsReply(predicted_models=tuple(predicted), policy=node.policy.name)


@action("preload_models", limit=WAITING, queue=0)
async def preload_models(node: Node, request: PreloadModelsRequest, call: Call) -> PreloadModelsReply:
    """Load models one after the other; none of them is evicted for another one of them."""
    results: dict[str, PreloadOutcome] = {}
    async with AsyncExitStack() as held:
        for model_id in dict.fromkeys(request.model_ids):
            try:
                model, terms = await node.loadable(model_id), node.terms(request.load_wait_ms, None)
                instance = await held.enter_async_context(
                    node.supervisor.hold(model, terms, correlation_id=call.request_id)
                )
                await wait_loaded(instance, None)
            except SuiteError as error:
                results[model_id] = PreloadOutcome(loaded=False, message=error.message, code=error.code)
            else:
                results[model_id] = PreloadOutcome(
                    loaded=True, message=f"{instance.model.model_id} is loaded", seq=instance.seq
                )
    loaded = sum(outcome.loaded for outcome in results.values())
    return PreloadModelsReply(message=f"{loaded} of {len(results)} models are loaded", results=results)


@action("select_model")
async def select_model(node: Node, request: SelectModelRequest, _: Call) -> SelectModelReply:
    """Select a model with a capability: loaded models come first, then the most trusted."""
    able = [
        model
        for model in node.catalogue.models.values()
        if model.error is None
        and (model.outage is None or node.is_loaded(model.model_id))
        and (request.capability is None or request.capability in model.capabilities)
    ]
    if not able:
        known = sorted({each for model in node.catalogue.models.values() for each in model.capabilities})
        raise ModelNotFound(
            f"no model has the capability {request.capability!r}: there are {', '.join(known) or 'none'}"
            if request.capability is not None
            else "there are no models: put a .gguf file into one of the models' directories"
        )
    async with node.projections.evaluation.reading(request.min_seq, own_seq=node.last_seq) as db:
        trust = await trusts(db, [model.model_id for model in able])
    able.sort(
        key=lambda model: (
            not node.is_loaded(model.model_id),
            node.supervisor.quarantine.pause_of(model) is not None,
            -trust.get(model.model_id, UNKNOWN_TRUST),
            model.model_id,
        )
    )
    chosen = able[0].model_id
    return SelectModelReply(
        model_id=chosen,
        loaded=node.is_loaded(chosen),
        trust=trust.get(chosen),
        others=tuple(model.model_id for model in able[1:]),
    )
