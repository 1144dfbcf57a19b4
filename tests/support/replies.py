"""Replies as a fleet would send them, with the same figures each time and names that are hard to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

import anyio
import msgspec
from msgspec.structs import fields

from suite.messages.actions.benchmark import (
    BenchmarkInfo,
    FollowBenchmarkReply,
    GetBenchmarksReply,
    RunBenchmarkReply,
)
from suite.messages.actions.evaluation import (
    CompareModelsReply,
    GetModelEvaluationScoresReply,
    GetPerformanceMetricsReply,
    MetricSummary,
    ModelComparison,
    ModelEvaluation,
    PerformanceMetric,
    Scores,
    SummaryReply,
)
from suite.messages.actions.explanation import ExplainedEvent, ExplainReply, ModelState
from suite.messages.actions.prediction import (
    BetInfo,
    CalibrationInfo,
    GetPredictionsReply,
    ModelPrediction,
    ReliabilityBin,
)
from suite.messages.actions.projections import (
    ErrorEntry,
    ErrorGroup,
    FleetFile,
    FleetModel,
    GetErrorGroupsReply,
    GetErrorsReply,
    GetFleetReply,
)
from suite.messages.actions.residency import LoadModelReply
from suite.messages.actions.status import (
    BreakerInfo,
    EvictionInfo,
    GenerationInfo,
    GetModelStatusReply,
    GetStatsReply,
    HealthCheckReply,
    InstanceInfo,
    KvCacheInfo,
    ListModelsReply,
    MemoryEstimate,
    ModelInfo,
    ProjectionInfo,
    QuarantineInfo,
)
from suite.messages.actions.usage import UsageCount, UsageReply
from suite.messages.benchmarks import (
    BenchmarkResult,
    BrokenLine,
    LoadSample,
    Mean,
    Quality,
    Share,
    Speed,
)
from suite.messages.signals import Chunk, Heartbeat, Progress
from support.responder import Call, Handler

T = TypeVar("T", bound=msgspec.Struct)

SMOL = "SmolLM2-135M-Instruct.Q4_1"
GEMMA = "gemma-3-270m-it-Q4_K_M"
UMLAUT = "Bücher für 日本 v2"
LONG = "quantised-" * 20 + "end"
"""A name of 203 letters without a space."""
DASHED = "-begins-with-a-dash"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FIRST_ID = "01a22381-122f-7148-a119-a9f8a0dc49cd"
SECOND_ID = "01a22381-1a10-73a7-841f-5038f2183733"

BENCHMARK = BenchmarkResult(
    load=LoadSample(load_ms=1494.691, resident_bytes=1 << 28),
    prompt_tokens=256,
    answer_tokens=64,
    speed=tuple(
        Speed(
            streams=streams,
            first_token_ms=Mean(mean=streams * 210.0, low=streams * 200.0, high=streams * 220.0, samples=5),
            latency_ms=Mean(mean=streams * 1000.0, low=None, high=None, samples=1),
            prompt_tokens_per_second=Mean(mean=1234.5, low=1200.0, high=1269.0, samples=5),
            tokens_per_second=Mean(mean=107.3 / streams, low=None, high=None, samples=1),
            total_tokens_per_second=Mean(mean=99.5, low=97.25, high=101.75, samples=5),
        )
        for streams in (1, 8)
    ),
    quality=Quality(
        set_sha256=SHA256,
        accuracy=Share(share=0.7, low=0.3968, high=0.8922, samples=10),
        passed=7,
        failed=3,
        unclear=2,
        refused=1,
        broken_lines=1,
        latency_ms=None,
    ),
    disturbed_rounds=1,
    interrupted=2,
    waited_seconds=675.5,
)

_NOTHING: tuple[Any, ...] = (None, 0, 0.0, "", False, (), {})


def filled(kind: type[T], **known: Any) -> T:
    """A struct of which only this is known; whatever else it must have is nothing."""
    missing = [field for field in fields(kind) if field.required and field.name not in known]
    given = {field.name: _nothing(field.type) for field in missing}
    return msgspec.convert({**given, **msgspec.to_builtins(known)}, kind)


def _nothing(kind: Any) -> Any:
    for value in (*_NOTHING, *get_args(kind)[:1]):  # of a Literal the first
        try:
            return msgspec.to_builtins(msgspec.convert(value, kind))
        except msgspec.ValidationError:
            continue
    return msgspec.to_builtins(filled(kind))


def _model(model_id: str, **known: Any) -> ModelInfo:
    usual = {
        **{"model_id": model_id, "display_name": model_id, "model_path": f"/srv/models/{model_id}.gguf"},
        **{"file_bytes": 98_362_432, "sha256": SHA256, "architecture": "llama", "parameters": 134_515_008},
        **{"quantization": "Q4_1", "trained_context_tokens": 8192, "n_ctx": 4096, "has_chat_template": True},
        **{"capabilities": ("chat", "generation"), "status": "unloaded"},
        "kv_cache": KvCacheInfo(form="separate", slots=8, tokens=8 * 4096),
        "estimate": MemoryEstimate(weights_bytes=98 << 20, kv_bytes=90 << 20, compute_bytes=50 << 20),
    }
    return filled(ModelInfo, **{**usual, **known})


MODELS = (
    _model(
        SMOL,
        aliases=("small", "smollm2"),
        status="loaded",
        loaded=True,
        instance=filled(
            InstanceInfo,
            node="box1",
            instance_id=FIRST_ID,
            pid=4_194_303,
            resident_bytes=312_016_896,
            load_progress=1.0,
            load_ms=1494.691,
            running=0,
            loaded_at="2026-11-28T12:00:01Z",
            last_used_at="2026-11-28T12:03:00Z",
            idle_ms=149_000.0,
        ),
    ),
    _model(GEMMA, architecture="gemma3", parameters=268_098_176, quantization="Q4_K_M"),
    _model(
        UMLAUT,
        parameters=1_543_714_304,
        file_bytes=986 << 20,
        quarantine=QuarantineInfo(
            until="2026-11-28T12:30:00Z",
            failures=7,
            reason="llama.cpp could not load the model: it gave no reason",
        ),
    ),
    _model(DASHED, status="invalid", error=f"the file {DASHED}.gguf ends in its tensors: copy it once more"),
)

GENERATIONS = tuple(
    filled(
        GenerationInfo,
        generation_id=generation_id,
        model_id=SMOL,
        state=state,
        elapsed_ms=9_000.0,
        completion_tokens=tokens,
    )
    for generation_id, state, tokens in ((FIRST_ID, "generating", 12_345), (SECOND_ID, "waiting", None))
)

_BET_AT = "2026-11-28T12:00:00Z"
_CURVE = (
    ReliabilityBin(count=1, predicted=0.3, observed=0.0),
    ReliabilityBin(count=1, predicted=0.75, observed=1.0),
)


def _prediction(model_id: str, chance: float, last_bet: BetInfo | None) -> ModelPrediction:
    return filled(
        ModelPrediction,
        model_id=model_id,
        chance=chance,
        last_bet=last_bet,
        loaded=model_id == SMOL,
        won=int(last_bet is not None and last_bet.state == "hit"),
        lost=int(last_bet is not None and last_bet.state == "waste"),
        saved_seconds=1.494,
    )


_SCORES: Mapping[str, float] = {
    "trust": 0.73183,
    "trust_score": 0.96,
    "accuracy": 0.04,
    "f1_score": 0.5,
    "avg_latency_ms": 12_345.678,
}


def _sample(metric_id: str, value: float, context: str | None = None) -> PerformanceMetric:
    return filled(
        PerformanceMetric,
        metric_id=metric_id,
        agent_name="planner",
        metric_name="latency_ms",
        value=value,
        timestamp="2026-11-28T12:03:00Z",
        context=context,
    )


def _summary(agent: str | None, count: int, **figures: float) -> MetricSummary:
    return filled(MetricSummary, agent_name=agent, count=count, min=0.04, p50=0.5, **figures)


def _usage(model_id: str) -> UsageCount:
    return filled(
        UsageCount,
        model_id=model_id,
        start="2026-11-28T00:00:00Z",
        uses=12_345,
        prompt_tokens=1_234_567,
        reused_tokens=234_567,
        completion_tokens=34_567,
        generation_ms=9_000_000.0,
        last_used_at="2026-11-28T12:03:00Z",
    )


def _fleet(model: ModelInfo, *nodes: str) -> FleetModel:
    files = tuple(
        filled(FleetFile, node=node, node_up=node != "box2", file_bytes=98_362_432, quantization="Q4_1")
        for node in nodes
    )
    return filled(
        FleetModel,
        model_id=model.model_id,
        files=files,
        loaded_on=nodes[:1],
        loads=1234,
        load_failures=2,
        crashes=1,
        mean_load_ms=1494.691,
    )


EXPLAINED = ExplainReply(
    at="2026-11-28T12:00:00+00:00",
    models=(
        ModelState(
            model_id=SMOL,
            node="box1",
            state="loaded",
            pinned=False,
            seq=41,
            sentences=(
                f"{SMOL} is loaded on box1 since 2026-11-28T11:58:00Z.",
                f"{SMOL} began to load on box1 because 3 requests needed it, after 2.2 s of waiting.",
                f"Had {GEMMA} been used after 2026-11-28T11:57:30Z, {UMLAUT} would have left for it.",
            ),
        ),
    ),
    events=(
        ExplainedEvent(
            seq=41,
            timestamp="2026-11-28T11:58:00+00:00",
            type="suite.instance.loaded.v1",
            node="box1",
            model_id=SMOL,
            sentences=(f"{SMOL} was loaded on box1 in 1.5 s: it takes 256.0 MiB.",),
            decision=None,
        ),
        ExplainedEvent(
            seq=40,
            timestamp="2026-11-28T11:57:58+00:00",
            type="suite.instance.load_started.v1",
            node="box1",
            model_id=SMOL,
            sentences=(
                f"{SMOL} began to load on box1 because 3 requests needed it, after 2.2 s of waiting.",
                f"{GEMMA} (1.30 GiB, not used for 2 min 3 s) left for it.",
                f"Also in memory: {UMLAUT} (2 requests used it), {LONG} (it was pinned) and 3 more.",
            ),
            decision=None,
        ),
    ),
)

ANSWERS: Mapping[str, msgspec.Struct] = {
    "list_models": ListModelsReply(models=MODELS),
    "health_check": filled(
        HealthCheckReply,
        status="degraded",
        problems=(f"the directory /srv/models cannot be read, so nothing new is found in it: {LONG}",),
        node="box1",
        version="1.2.3",
        uptime=9000.0,
        models_loaded=1,
        models_tracked=len(MODELS),
        breakers=(
            BreakerInfo(
                node="box1",
                kind="otlp",
                name="traces",
                state="open",
                failures=4,
                since="2026-11-28T12:03:00Z",
                until="2026-11-28T12:03:08Z",
                reason="http://localhost:4318/v1/traces cannot be reached",
            ),
            BreakerInfo(
                node="box1",
                kind="model",
                name=SMOL,
                state="half_open",
                failures=2,
                since="2026-11-28T12:03:00Z",
                reason="llama.cpp cannot load it",
            ),
        ),
    ),
    "get_stats": filled(
        GetStatsReply,
        node="box1",
        uptime_ms=9_000_000.0,
        models_tracked=len(MODELS),
        models_loaded=1,
        commands_processed=1_234_567,
        completion_tokens=34_567,
        memory_limit_bytes=20_221_208_166,
        memory_reserved_bytes=413_687_840,
        last_seq=98_765,
        projections=tuple(
            filled(ProjectionInfo, name=name, seq=98_765, lag_events=lag, rebuilding=lag > 0)
            for name, lag in (("catalogue", 0), ("evaluation", 1234))
        ),
    ),
    "get_performance_metrics": GetPerformanceMetricsReply(
        metrics=(
            _sample(FIRST_ID, 0.96),
            _sample(
                SECOND_ID, 12_345.678, '{"run":1234567,"model":"SmolLM2-135M-Instruct","seed":424242424242}'
            ),
            _sample(LONG[:200], -0.000012),
        ),
        next_cursor=None,
    ),
    "summary": filled(
        SummaryReply,
        metric_name="latency_ms",
        relative_error=0.01,
        total=filled(
            MetricSummary,
            count=12_345,
            mean=123.456789,
            min=0.04,
            max=12_345.678,
            p50=99.5,
            p95=1234.5,
            p99=9999.96,
        ),
        by_agent=(
            filled(
                MetricSummary,
                agent_name=UMLAUT,
                count=3,
                mean=0.73183,
                min=0.04,
                max=0.96,
                p50=0.5,
                p95=0.9,
                p99=0.96,
            ),
        ),
    ),
    "get_model_evaluation_scores": GetModelEvaluationScoresReply(
        evaluations=tuple(
            filled(
                ModelEvaluation,
                evaluation_id=entry_id,
                model_name=SMOL,
                cycle_id="2026-w48",
                trust_score=0.73183,
                accuracy=0.96,
                f1_score=0.04,
                avg_latency_ms=140.25,
                evaluation_timestamp="2026-11-28T12:03:00Z",
            )
            for entry_id in (FIRST_ID, SECOND_ID)
        ),
        next_cursor=None,
    ),
    "run_benchmark": RunBenchmarkReply(
        benchmark_id=FIRST_ID,
        model_id=SMOL,
        state="finished",
        runs_on="box1",
        broken_lines=(BrokenLine(line=3, problem="JSON is malformed: invalid character (byte 4)"),),
        evaluation_id=FIRST_ID,
        result=BENCHMARK,
        seq=98_765,
    ),
    "follow_benchmark": FollowBenchmarkReply(
        benchmark_id=FIRST_ID, model_id=SMOL, state="open", runs_on="box1", seq=98_765
    ),
    "get_benchmarks": GetBenchmarksReply(
        benchmarks=(
            filled(
                BenchmarkInfo,
                benchmark_id=FIRST_ID,
                model_id=SMOL,
                runs_on="box1",
                state="open",
                started_at="2026-11-28T12:03:00Z",
                done=7,
                total=28,
                waits=True,
            ),
            filled(
                BenchmarkInfo,
                benchmark_id=SECOND_ID,
                model_id=UMLAUT,
                runs_on="box1",
                state="finished",
                started_at="2026-11-28T12:01:00Z",
                result=BENCHMARK,
            ),
            filled(
                BenchmarkInfo,
                benchmark_id="nightly",
                model_id=SMOL,
                runs_on="box2",
                state="failed",
                started_at="2026-11-28T12:00:00Z",
                message="the model crashed 3 times",
            ),
        ),
        next_cursor=None,
    ),
    "compare_models": CompareModelsReply(
        models=(
            ModelComparison(
                model_name=SMOL,
                cycle_id="2026-w48",
                previous_cycle_id="2026-w47",
                evaluations=12,
                crashes=1,
                scores=Scores(**_SCORES),
                change=Scores(**_SCORES),
                benchmark=BENCHMARK,
                benchmark_node="box1",
            ),
            filled(ModelComparison, model_name=UMLAUT, cycle_id="2026-w48", scores=Scores(**_SCORES)),
        )
    ),
    "get_errors": GetErrorsReply(
        errors=(
            ErrorEntry(
                seq=98_765,
                error_type="model_file_invalid",
                message=f"{SMOL}.gguf is refused: it is a link out of the model directories; put the file "
                f"itself there. The instance was {FIRST_ID}",
                severity="error",
                node="box1",
                model_id=SMOL,
                timestamp="2026-11-28T12:03:00Z",
            ),
            ErrorEntry(
                seq=17,
                error_type="actor_crashed",
                message="signal 9\x1b[31m",
                severity="critical",
                node="box2",
                model_id=UMLAUT,
                timestamp="2026-11-28T12:03:00Z",
                count=1_234,
            ),
        ),
        next_cursor=None,
    ),
    "get_error_groups": GetErrorGroupsReply(
        groups=(
            ErrorGroup(
                error_type="actor_crashed",
                model_id=UMLAUT,
                node="box2",
                count=1_234,
                first_seen="2026-11-28T12:03:00Z",
                last_seen="2026-11-28T12:04:00Z",
                last_seq=98_765,
                severity="critical",
                message="signal 9\x1b[31m",
            ),
            ErrorGroup(
                error_type="breaker_opened",
                model_id=None,
                node="box1",
                count=1,
                first_seen="2026-11-28T12:01:00Z",
                last_seen="2026-11-28T12:01:00Z",
                last_seq=17,
                severity="warning",
                message="the export of traces over OTLP has failed again and again",
            ),
        ),
        next_cursor=None,
    ),
    "usage": UsageReply(usage=(_usage(SMOL), _usage(UMLAUT))),
    "explain": EXPLAINED,
    "get_predictions": GetPredictionsReply(
        horizon_seconds=1800.0,
        predictions=(
            _prediction(
                SMOL, 0.8123, BetInfo(made_at=_BET_AT, chance=0.75, state="hit", reason="used", detail="")
            ),
            _prediction(
                UMLAUT,
                0.04,
                BetInfo(made_at=_BET_AT, chance=0.3, state="waste", reason="left", detail="evicted"),
            ),
            _prediction(GEMMA, 0.0, None),
        ),
        bets=CalibrationInfo(count=2, brier=0.1512, brier_of_base_rate=0.25, curve=_CURVE),
        chances=CalibrationInfo(count=0, brier=None, brier_of_base_rate=None, curve=()),
    ),
    "get_fleet": GetFleetReply(models=(_fleet(MODELS[0], "box1", "box2"), _fleet(MODELS[2], "box2"))),
}
"""A reply by the name of its action, for those that always answer the same."""


async def _load_model(call: Call) -> None:
    """Load the one model; another never gets further than half."""
    while call.body["model_id"] != SMOL:
        await call.send(Progress(model_id=GEMMA, fraction=0.5))
        await anyio.sleep(0.1)
    reply = LoadModelReply(
        model_id=SMOL, loaded=True, message=f"{SMOL} is loaded", seq=4, load_ms=130.0, resident_bytes=1 << 28
    )
    await call.send(Progress(model_id=SMOL, fraction=0.5), Progress(model_id=SMOL, fraction=1.0), reply, b"")


async def _generate_text(call: Call) -> None:
    """Begin an answer that never ends, for a person to end it."""
    await call.send(Progress(model_id=SMOL, fraction=1.0))
    await call.send(Chunk(index=0, text="half an "), Chunk(index=1, text="answer"))
    while True:
        await anyio.sleep(0.5)
        await call.send(Heartbeat())


async def _get_model_status(call: Call) -> None:
    by_name = {name: model for model in MODELS for name in (model.model_id, *model.aliases)}
    if (name := call.body["model_id"]) is None:
        models = {model.model_id: model for model in MODELS}
        eviction = EvictionInfo(policy="best_lately", follows="greedy_dual", last_seq=8120)
        await call.send(GetModelStatusReply(models=models, generations=GENERATIONS, eviction=eviction))
    elif name in by_name:
        await call.send(GetModelStatusReply(model=by_name[name]))
    else:
        await call.refuse("model_not_found", f"no model {name!r}")


def _answering(reply: msgspec.Struct) -> Handler:
    async def answer(call: Call) -> None:
        await call.send(reply)

    return answer


HANDLERS: Mapping[str, Handler] = {
    "get_model_status": _get_model_status,
    "generate_text": _generate_text,
    "load_model": _load_model,
    **{name: _answering(reply) for name, reply in ANSWERS.items()},
}
