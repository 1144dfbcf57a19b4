"""The actions for metrics and evaluations. Whatever is logged with an id is stored once."""

from __future__ import annotations

from datetime import datetime

from msgspec import UNSET
from msgspec.structs import replace

from suite.actions.idempotency import append_once, attachment, message_id
from suite.bus.service import Call, action
from suite.domain.versions import split
from suite.errors import Conflict, EvaluationNotFound, InvalidRequest
from suite.log import Unreadable
from suite.messages.actions.base import Moment
from suite.messages.actions.evaluation import (
    CompareModelsReply,
    CompareModelsRequest,
    GetModelEvaluationScoresReply,
    GetModelEvaluationScoresRequest,
    GetPerformanceMetricsReply,
    GetPerformanceMetricsRequest,
    LogModelEvaluationReply,
    LogModelEvaluationRequest,
    LogPerformanceMetricReply,
    LogPerformanceMetricRequest,
    RetractModelEvaluationReply,
    RetractModelEvaluationRequest,
    SummaryReply,
    SummaryRequest,
)
from suite.messages.events import EvaluationLogged, EvaluationRetracted, Event, MetricLogged
from suite.messages.times import parse_time
from suite.node.node import Node
from suite.projections import comparison, samples, scores
from suite.projections import summary as summaries
from suite.projections.reply_size import as_many_as_fit, left_out


@action("log_performance_metric", wrappers=("metric",))
async def log_performance_metric(
    node: Node, request: LogPerformanceMetricRequest, call: Call
) -> LogPerformanceMetricReply:
    """Log one sample of a metric."""
    metric_id = request.metric_id or node.new_id()
    event = MetricLogged(
        metric_id=metric_id,
        agent_name=request.agent_name,
        metric_name=request.metric_name,
        value=request.value,
        timestamp=_time(node, request.timestamp, "timestamp"),
        context=attachment(request.context, "context"),
    )

    def is_same(before: MetricLogged, now: MetricLogged) -> bool:
        return before == (now if request.timestamp is not None else replace(now, timestamp=before.timestamp))

    if request.metric_id is None:
        seq = await node.log.append(event, correlation_id=call.request_id)
    else:
        seq = await append_once(
            node,
            node.projections.evaluation,
            event,
            entry_id=metric_id,
            find=samples.find_metric,
            is_same=is_same,
            correlation_id=call.request_id,
        )
    return LogPerformanceMetricReply(message=f"{request.metric_name} is logged", metric_id=metric_id, seq=seq)


@action("get_performance_metrics", is_lookup=True)
async def get_performance_metrics(
    node: Node, request: GetPerformanceMetricsRequest, _: Call
) -> GetPerformanceMetricsReply:
    """Get the samples of metrics, newest first."""
    async with node.projections.evaluation.reading(request.min_seq, own_seq=node.last_seq) as db:
        return await samples.performance_metrics(db, request)


@action("summary", is_lookup=True)
async def summary(node: Node, request: SummaryRequest, _: Call) -> SummaryReply:
    """Summarise the samples of a metric, in total and by agent."""
    async with node.projections.evaluation.reading(request.min_seq, own_seq=node.last_seq) as db:
        return await summaries.summary(db, request)


@action("log_model_evaluation", wrappers=("evaluation",))
async def log_model_evaluation(
    node: Node, request: LogModelEvaluationRequest, call: Call
) -> LogModelEvaluationReply:
    """Log an evaluation of a model in a cycle."""
    evaluation_id = request.evaluation_id or node.new_id()
    model_name, version = _subject(node, request)
    event = EvaluationLogged(
        evaluation_id=evaluation_id,
        model_name=model_name,
        version=version or UNSET,
        cycle_id=request.cycle_id,
        trust_score=request.trust_score,
        accuracy=request.accuracy,
        f1_score=request.f1_score,
        avg_latency_ms=request.avg_latency_ms,
        evaluation_timestamp=_time(node, request.evaluation_timestamp, "evaluation_timestamp"),
        comparison_data=attachment(request.comparison_data, "comparison_data"),
    )

    def is_same(before: EvaluationLogged, now: EvaluationLogged) -> bool:
        # The name that it was logged under may have become an alias since.
        before = replace(before, model_name=node.fleet.meant(before.model_name))
        if request.evaluation_timestamp is None:
            now = replace(now, evaluation_timestamp=before.evaluation_timestamp)
        if request.version is None:  # which version the model is at may have changed since
            now = replace(now, version=before.version)
        return before == now

    if request.evaluation_id is None:
        seq = await node.log.append(event, correlation_id=call.request_id)
    else:
        seq = await append_once(
            node,
            node.projections.evaluation,
            event,
            entry_id=evaluation_id,
            find=scores.find_evaluation,
            is_same=is_same,
            correlation_id=call.request_id,
        )
    return LogModelEvaluationReply(
        message=f"the evaluation of {event.model_name} is logged", evaluation_id=evaluation_id, seq=seq
    )


@action("get_model_evaluation_scores", is_lookup=True)
async def get_model_evaluation_scores(
    node: Node, request: GetModelEvaluationScoresRequest, _: Call
) -> GetModelEvaluationScoresReply:
    """Get the evaluations of models, newest first."""
    if request.model_name is not None:
        request = _of_version(node, request, request.model_name)
    elif request.version is not None:
        raise InvalidRequest("field 'version': say of which model: send model_name too")
    async with node.projections.evaluation.reading(request.min_seq, own_seq=node.last_seq) as db:
        return await scores.evaluation_scores(db, request)


def _of_version(
    node: Node, request: GetModelEvaluationScoresRequest, name: str
) -> GetModelEvaluationScoresRequest:
    """The request with the model's id, and the version that the name says. Raises VersionNotFound."""
    model_id, named = node.fleet.meant(name), split(name)
    if named is not None and model_id != name:
        request = replace(request, version=node.versions.versions.find(model_id, named.version).number)
    return replace(request, model_name=model_id)


@action("retract_model_evaluation")
async def retract_model_evaluation(
    node: Node, request: RetractModelEvaluationRequest, call: Call
) -> RetractModelEvaluationReply:
    """Retract an evaluation."""
    evaluation_id = request.evaluation_id
    before, seq = await _evaluation(node, evaluation_id)
    if isinstance(before, EvaluationLogged):
        event = EvaluationRetracted(
            evaluation_id=evaluation_id, model_name=before.model_name, reason=request.reason
        )
        # The id is made from the sequence of the retracted event, so that any evaluation can be retracted.
        seq = await node.log.append(event, id=message_id(event, seq), correlation_id=call.request_id)
        stored = await node.log.at(seq)
        if isinstance(stored, Unreadable) or (stored and not _retracts(stored.data, evaluation_id)):
            raise Conflict(f"{evaluation_id!r} is not retracted: event {seq} has the id of its retraction")
    return RetractModelEvaluationReply(
        message=f"the evaluation {evaluation_id} of {before.model_name} is retracted",
        evaluation_id=evaluation_id,
        model_name=before.model_name,
        retracted=True,
        seq=seq,
    )


def _subject(node: Node, request: LogModelEvaluationRequest) -> tuple[str, int]:
    """The model that was evaluated, and the version; 0: the service does not know which.

    Raises VersionNotFound for a version that a known model does not have.
    """
    versions, named = node.versions.versions, split(request.model_name)
    model_id = node.fleet.meant(request.model_name)
    if request.version is not None:
        return model_id, versions.find(model_id, str(request.version)).number
    if named is not None and model_id != request.model_name:
        return model_id, versions.find(model_id, named.version).number
    target = alias.target if (alias := node.versions.aliases.get(request.model_name)) is not None else None
    return model_id, (target.version if target is not None else 0) or versions.newest(model_id)


async def _evaluation(node: Node, evaluation_id: str) -> tuple[EvaluationLogged | EvaluationRetracted, int]:
    """The evaluation with an id, or its retraction, and the event's sequence. Raises EvaluationNotFound."""
    evaluations = node.projections.evaluation
    async with evaluations.reading(await evaluations.wait_current(), own_seq=node.last_seq) as db:
        found = await scores.find_evaluation(db, evaluation_id)
    if found is None:  # another node may have logged it a moment ago
        async with evaluations.reading((await node.log.extent()).last_seq) as db:
            found = await scores.find_evaluation(db, evaluation_id)
    if found is None:
        raise EvaluationNotFound(f"no evaluation {evaluation_id!r}: see the list of evaluations")
    return found


def _retracts(event: Event, evaluation_id: str) -> bool:
    return isinstance(event, EvaluationRetracted) and event.evaluation_id == evaluation_id


@action("compare_models", is_lookup=True)
async def compare_models(node: Node, request: CompareModelsRequest, _: Call) -> CompareModelsReply:
    """Compare models by their latest cycles, with the change since the previous ones."""
    names = tuple(map(node.fleet.meant, request.model_names))
    async with node.projections.evaluation.reading(request.min_seq, own_seq=node.last_seq) as db:
        reply = await comparison.compare_models(db, replace(request, model_names=names))
    models = as_many_as_fit(reply.models)
    return replace(reply, models=models, warnings=left_out(reply.models, models, "less trusted models"))


def _time(node: Node, given: Moment | None, field: str) -> datetime:
    return node.now() if given is None else parse_time(given, field)
