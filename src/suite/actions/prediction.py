"""predict_models, preload_models and select_model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar

from msgspec import UNSET
from msgspec.structs import replace

from suite.actions.gathering import ask_all, gathered
from suite.actions.residency import WAITING
from suite.bus.service import Call, action
from suite.errors import ModelNotFound, SuiteError
from suite.messages.actions.prediction import (
    BetInfo,
    CalibrationInfo,
    GetPredictionsReply,
    GetPredictionsRequest,
    ModelChance,
    ModelPrediction,
    PredictModelsReply,
    PredictModelsRequest,
    PreloadModelsReply,
    PreloadModelsRequest,
    PreloadOutcome,
    ReliabilityBin,
    SelectableModel,
    SelectModelReply,
    SelectModelRequest,
)
from suite.messages.times import rfc3339
from suite.node.node import LEARNING_SECONDS, Node
from suite.prediction.bet_book import Record
from suite.prediction.chance import Calibration
from suite.projections.reply_size import as_many_as_fit, left_out
from suite.projections.trust import trusts

UNKNOWN_TRUST = 0.5
"""The trust assumed for a model about which nothing is known: neither good nor bad."""
PRELOAD_SECONDS: Final = 600.0
"""How long other nodes may take for each model; one that is lost is not waited for."""

C = TypeVar("C", ModelChance, ModelPrediction)


def _merged_forecast(
    request: PredictModelsRequest, replies: Mapping[str, PredictModelsReply]
) -> PredictModelsReply:
    """The prediction for all nodes: they predict from one log, but may have different models."""
    first = next(iter(replies.values()))
    every = [each for reply in replies.values() if reply.chances is not UNSET for each in reply.chances]
    if not every:
        return first
    chances = sorted(_likeliest(every).values(), key=lambda each: (-each.chance, each.model_id))
    return replace(first, chances=tuple(chances[: request.limit]))


def _merged_predictions(
    request: GetPredictionsRequest, replies: Mapping[str, GetPredictionsReply]
) -> GetPredictionsReply:
    """The predictions for all nodes: they are made from one log, for the models of each."""
    every = [each for reply in replies.values() for each in reply.predictions]
    found = sorted(_likeliest(every).values(), key=lambda each: (-each.chance, each.model_id))
    kept = as_many_as_fit(found[: request.limit])
    return replace(
        next(iter(replies.values())),
        predictions=kept,
        warnings=left_out(found[: request.limit], kept, "models after these"),
    )


def _likeliest(every: Iterable[C]) -> dict[str, C]:
    """What is told of each model, as loaded if some node has it loaded."""
    found: dict[str, C] = {}
    for each in every:
        known = found.get(each.model_id)
        if known is None or (each.loaded and not known.loaded):
            found[each.model_id] = each
    return found


@action("predict_models", route="each", is_lookup=True)
@gathered("predict_models", _merged_forecast, seconds=lambda _: LEARNING_SECONDS)
async def predict_models(node: Node, request: PredictModelsRequest, _: Call) -> PredictModelsReply:
    """Predict which models will be used next, the likeliest first."""
    predicted = tuple(await node.predict(limit=request.limit, min_seq=request.min_seq))
    if not request.detail:
        return PredictModelsReply(predicted_models=predicted, policy=node.policy.name)
    await node.learned(request.min_seq)
    chances = node.learning.chances.chances(node.catalogue.models, now=node.now())
    return PredictModelsReply(
        predicted_models=predicted,
        policy=node.policy.name,
        chances=tuple(
            ModelChance(model_id=id, chance=round(chances[id], 6), loaded=node.is_loaded(id))
            for id in by_chance(chances)[: request.limit]
        ),
        horizon_seconds=node.learning.chances.horizon_seconds,
    )


@action("get_predictions", route="each", is_lookup=True)
@gathered("get_predictions", _merged_predictions, seconds=lambda _: LEARNING_SECONDS)
async def get_predictions(node: Node, request: GetPredictionsRequest, _: Call) -> GetPredictionsReply:
    """Show how likely models are to be used, and what became of bets on them."""
    await node.learned(request.min_seq)
    learning = node.learning
    chances = dict.fromkeys(learning.bets.records, 0.0)
    chances |= learning.chances.chances(node.catalogue.models.keys() | chances, now=node.now())
    every = [_prediction(node, id, chances[id]) for id in by_chance(chances)[: request.limit]]
    kept = as_many_as_fit(every)
    return GetPredictionsReply(
        horizon_seconds=learning.chances.horizon_seconds,
        predictions=kept,
        bets=_calibration(learning.bets.calibration),
        chances=_calibration(learning.chances.calibration),
        warnings=left_out(every, kept, "models after these"),
    )


def by_chance(chances: Mapping[str, float]) -> list[str]:
    """The models in the order of their chances, the likeliest first."""
    return sorted(chances, key=lambda model_id: (-chances[model_id], model_id))


def _prediction(node: Node, model_id: str, chance: float) -> ModelPrediction:
    record = node.learning.bets.records.get(model_id)
    return ModelPrediction(
        model_id=model_id,
        chance=round(chance, 6),
        loaded=node.is_loaded(model_id),
        last_bet=None if record is None else _last_bet(record),
        won=0 if record is None else record.won,
        lost=0 if record is None else record.lost,
        saved_seconds=0.0 if record is None else round(record.saved_seconds, 3),
        byte_seconds=0.0 if record is None else round(record.byte_seconds, 1),
    )


def _last_bet(record: Record) -> BetInfo:
    settled = record.last_settled
    return BetInfo(
        made_at=rfc3339(datetime.fromtimestamp(record.last_at, UTC)),
        chance=record.last.chance,
        state="open" if settled is None else settled.outcome,
        reason="" if settled is None else settled.reason,
        detail="" if settled is None else settled.detail,
    )


def _calibration(calibration: Calibration) -> CalibrationInfo:
    return CalibrationInfo(
        count=calibration.count,
        brier=calibration.brier,
        brier_of_base_rate=calibration.brier_of_base_rate,
        curve=tuple(
            ReliabilityBin(count=each.count, predicted=each.predicted, observed=each.observed)
            for each in calibration.curve()
        ),
    )


@action("preload_models", limit=WAITING, queue=0, route="each")
async def preload_models(node: Node, request: PreloadModelsRequest, call: Call) -> PreloadModelsReply:
    """Load models, each on the node that is best for it; none is evicted for another one of them."""
    if call.is_of_node or request.node is not None or not node.fleet.others:
        return await _preload(node, request, call)
    # Another node may not know by which other name a model is called here.
    ids = {node.fleet.canonical(each): each for each in request.model_ids}
    placed = node.fleet.spread(ids)
    requests = {name: replace(request, model_ids=tuple(each)) for name, each in placed.items()}
    own = requests.pop(node.name, None)
    answers = await ask_all(
        node,
        "preload_models",
        requests,
        PreloadModelsReply,
        call,
        own=None if own is None else partial(_preload, node, own, call),
        seconds=PRELOAD_SECONDS * len(ids),
    )
    results: dict[str, PreloadOutcome] = {}
    for name, answer in answers.items():
        if isinstance(answer, SuiteError):
            failed = PreloadOutcome(loaded=False, message=answer.message, code=answer.code, node=name)
            results |= dict.fromkeys(placed.get(name, ()), failed)
        else:
            results |= answer.results
    return _preloaded({asked: results[id] for id, asked in ids.items() if id in results})


def _preloaded(results: dict[str, PreloadOutcome]) -> PreloadModelsReply:
    loaded = sum(outcome.loaded for outcome in results.values())
    return PreloadModelsReply(message=f"{loaded} of {len(results)} models are loaded", results=results)


async def _preload(node: Node, request: PreloadModelsRequest, call: Call) -> PreloadModelsReply:
    """Load models on this node one after the other; none of them is evicted for another one of them.

    So none of them waits for memory while others of them have some: it would be waiting for these.
    """
    results: dict[str, PreloadOutcome] = {}
    may_wait = True
    async with AsyncExitStack() as held:
        for model_id in dict.fromkeys(request.model_ids):
            try:
                model = await node.loadable(model_id)
                terms = node.terms(request.load_wait_ms if may_wait else 0, None)
                instance = await held.enter_async_context(
                    node.supervisor.hold(model, terms, correlation_id=call.request_id)
                )
                await instance.wait_loaded()
                may_wait = False
            except SuiteError as error:
                results[model_id] = PreloadOutcome(
                    loaded=False, message=error.message, node=node.name, code=error.code
                )
            else:
                results[model_id] = PreloadOutcome(
                    loaded=True,
                    message=f"{instance.model.model_id} is loaded",
                    node=node.name,
                    seq=instance.seq,
                )
    return _preloaded(results)


@action("select_model", route="each")
async def select_model(node: Node, request: SelectModelRequest, call: Call) -> SelectModelReply:
    """Select a model with a capability: loaded models come first, then the most trusted."""
    reply = await _selected(node, request, call)
    return replace(reply, others=()) if call.is_of_node else replace(reply, candidates=UNSET)


def _merged_selection(_: SelectModelRequest, replies: Mapping[str, SelectModelReply]) -> SelectModelReply:
    """The selection among the models of all nodes."""
    found: dict[str, SelectableModel] = {}
    for reply in replies.values():
        for each in () if reply.candidates is UNSET else reply.candidates:
            known = found.get(each.model_id)
            if known is None or _rank(each) < _rank(known):
                found[each.model_id] = each
    return _selection(sorted(found.values(), key=_rank))


def _rank(model: SelectableModel) -> tuple[bool, bool, float, str]:
    trust = UNKNOWN_TRUST if model.trust is None else model.trust
    return not model.loaded, model.quarantined, -trust, model.model_id


def _selection(ranked: Sequence[SelectableModel]) -> SelectModelReply:
    first, *rest = ranked
    return SelectModelReply(
        model_id=first.model_id,
        loaded=first.loaded,
        trust=first.trust,
        others=tuple(each.model_id for each in rest),
        candidates=as_many_as_fit(ranked),
    )


@gathered("select_model", _merged_selection, seconds=lambda _: LEARNING_SECONDS)
async def _selected(node: Node, request: SelectModelRequest, _: Call) -> SelectModelReply:
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
    ranked = (
        SelectableModel(
            model_id=model.model_id,
            loaded=node.is_loaded(model.model_id),
            quarantined=node.supervisor.quarantine.pause_of(model) is not None,
            trust=trust.get(model.model_id),
        )
        for model in able
    )
    return _selection(sorted(ranked, key=_rank))
