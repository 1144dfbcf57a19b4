"""The exact sentences for each event: they say what the event says, in words that a colleague would use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from suite.explanation.sentences import FACTS, sentences
from suite.messages.benchmarks import (
    AnswerSample,
    BenchmarkResult,
    NumberedQuestion,
    Quality,
    Question,
    Share,
)
from suite.messages.decisions import (
    Candidate,
    Decision,
    GpuRoom,
    MoreMemory,
    NotPinned,
    NotUsed,
    UsedLater,
    WorthMore,
)
from suite.messages.envelope import Recorded
from suite.messages.events import (
    AliasRemoved,
    AliasSet,
    AppliedAdapter,
    BenchmarkCancelled,
    BenchmarkFailed,
    BenchmarkFinished,
    BenchmarkMoved,
    BenchmarkProgressed,
    BenchmarkStarted,
    BetOutcome,
    BetReason,
    CanaryStarted,
    Event,
    InstanceCrashed,
    InstanceGrew,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
    Loser,
    ModelPinned,
    ModelQuarantined,
    ModelRegistered,
    ModelReleased,
    ModelRemoved,
    ModelUnpinned,
    NodeDraining,
    NodeLost,
    NodeResumed,
    NodeStarted,
    NodeStopped,
    PredictionMade,
    PredictionSettled,
    Promoted,
    PromotionStarted,
    PromotionStopped,
    RequestsRefused,
    TakenBack,
    UnloadReason,
    UsageRecorded,
    WaitEnded,
    WaitStarted,
)
from suite.messages.promotion import Estimate, Finding, Gates

PROMOTION: dict[str, Any] = {"alias": "chat", "promotion_id": "p", "model_id": "tiny", "version": 2}
FINDINGS = (
    Finding(gate="evaluations", verdict="met", needed=12.0),
    Finding(
        gate="accuracy.not_worse_by",
        verdict="met",
        needed=0.02,
        new=Estimate(evaluations=12, mean=0.91, low=0.88, high=0.94),
        old=Estimate(evaluations=1, mean=0.9),
    ),
)
GIB = 1 << 30
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
NO_ROOM = Decision(need_bytes=2 * GIB, free_bytes=GIB // 2, limit_bytes=8 * GIB, waiting=1)


def recorded(event: Event, seq: int = 7) -> Recorded:
    return Recorded(seq=seq, subject="", id="id", type=event.type, source="/node/box1", time=NOON, data=event)


def started(decision: Decision | None, *evicting: str) -> InstanceLoadStarted:
    return InstanceLoadStarted(
        node="box1",
        model_id="tiny",
        instance_id="i",
        reserved_bytes=2 * GIB,
        context_tokens=4096,
        evicting=evicting,
        decision=decision,
    )


def unloaded(reason: UnloadReason, **known: object) -> InstanceUnloaded:
    return InstanceUnloaded(
        node="box1",
        model_id="big",
        instance_id="i",
        reason=reason,
        freed_bytes=0,
        **known,  # type: ignore[arg-type]
    )


def settled(outcome: BetOutcome, reason: BetReason) -> PredictionSettled:
    return PredictionSettled(
        model_id="tiny",
        node="box1",
        prediction_id="p",
        outcome=outcome,
        reason=reason,
        detail="evicted",
        chance=0.75,
        saved_seconds=1.5,
        byte_seconds=1800.0 * GIB,
    )


def crashed(exit_code: int, *, for_lack_of_memory: bool = False) -> InstanceCrashed:
    return InstanceCrashed(
        node="box1",
        model_id="tiny",
        instance_id="i",
        exit_code=exit_code,
        generations=2,
        reason="out_of_memory" if for_lack_of_memory else None,
    )


EVICTION = Decision(
    need_bytes=2 * GIB,
    free_bytes=GIB // 2,
    limit_bytes=8 * GIB,
    waiting=3,
    waited_seconds=2.25,
    candidates=(
        Candidate(model_id="big", bytes=3 * GIB, standing="idle", chosen=True, unused_seconds=123),
        Candidate(model_id="b", bytes=GIB, standing="idle", unused_seconds=30),
        Candidate(model_id="c", bytes=GIB, standing="used", uses=2),
        Candidate(model_id="d", bytes=GIB, standing="pinned"),
        Candidate(model_id="e", bytes=GIB, standing="kept", stays_seconds=2.5),
        Candidate(model_id="f", bytes=GIB, standing="loading"),
    ),
    more_candidates=3,
    alternatives=(
        MoreMemory(bytes=3 * GIB // 2, starts=True),
        NotPinned(model_id="d", starts=True, evicting=("b", "d")),
        NotUsed(model_id="c", starts=True, evicting=("c",)),
        UsedLater(model_id="big", unused_seconds=30, starts=True, evicting=("b",)),
    ),
)
BY_POLICY = Decision(
    purpose="preload",
    need_bytes=2 * GIB,
    free_bytes=-GIB,
    limit_bytes=8 * GIB,
    left_by_others_bytes=5 * GIB,
    policy="best_lately",
    candidates=(
        Candidate(model_id="a", bytes=GIB, standing="unloading"),
        Candidate(model_id="big", bytes=GIB, standing="idle", chosen=True, worth=1.0, unused_seconds=4000),
        Candidate(model_id="b", bytes=GIB, standing="idle", worth=2.0, unused_seconds=100_000),
    ),
    alternatives=(WorthMore(model_id="big", worth=2.0, starts=True, evicting=("b",)),),
)
WAIT = Decision(
    need_bytes=2 * GIB,
    free_bytes=GIB // 2,
    limit_bytes=8 * GIB,
    waiting=1000,
    waited_seconds=1.04,
    candidates=(
        Candidate(model_id="a", bytes=GIB, standing="closing", chosen=True, uses=1),
        Candidate(model_id="b", bytes=GIB, standing="used", chosen=True, uses=2, stays_seconds=0.5),
        Candidate(model_id="c", bytes=GIB, standing="promised"),
        Candidate(model_id="d", bytes=GIB, standing="serving"),
    ),
    alternatives=(
        MoreMemory(bytes=GIB, starts=True, evicting=("a",)),
        NotUsed(model_id="b", starts=True, evicting=("a", "b")),
    ),
)
TOO_BIG = Decision(
    need_bytes=9 * GIB,
    free_bytes=GIB,
    limit_bytes=8 * GIB,
    alternatives=(MoreMemory(bytes=GIB, starts=False), NotPinned(model_id="d", starts=False)),
)
EXCESS = Decision(
    purpose="excess",
    need_bytes=0,
    free_bytes=-GIB,
    limit_bytes=8 * GIB,
    candidates=(
        Candidate(model_id="big", bytes=3 * GIB, standing="idle", chosen=True),
        Candidate(model_id="b", bytes=GIB, standing="used", uses=1),
    ),
)

ON_GPU = Decision(
    need_bytes=GIB,
    free_bytes=4 * GIB,
    limit_bytes=8 * GIB,
    gpus=(
        GpuRoom(name="gpu0", need_bytes=2 * GIB, free_bytes=0, limit_bytes=3 * GIB),
        GpuRoom(name="gpu1", need_bytes=0, free_bytes=GIB, limit_bytes=3 * GIB),
    ),
    scarcest="gpu0",
    waiting=1,
    candidates=(
        Candidate(
            model_id="big",
            bytes=3 * GIB,
            gpus={"gpu0": 2 * GIB},
            standing="idle",
            chosen=True,
            unused_seconds=60,
        ),
    ),
    alternatives=(
        MoreMemory(bytes=3 * GIB, gpus={"gpu0": 2 * GIB}, starts=True),
        MoreMemory(bytes=2 * GIB, gpus={"gpu0": 2 * GIB}, starts=True),
    ),
)
GPU_EXCESS = msgspec.structs.replace(
    EXCESS,
    free_bytes=GIB,
    gpus=(GpuRoom(name="gpu0", need_bytes=0, free_bytes=-GIB, limit_bytes=3 * GIB),),
    scarcest="gpu0",
)

BENCHMARK: dict[str, Any] = {"benchmark_id": "b", "model_id": "tiny"}
TABLE: tuple[tuple[Event, tuple[str, ...]], ...] = (
    (
        started(ON_GPU, "big"),
        (
            "tiny began to load on box1 because 1 request needed it.",
            "It needed 2.00 GiB on gpu0, and nothing of 3.00 GiB was free. It needed 1.00 GiB of RAM, and "
            "4.00 GiB of 8.00 GiB was free.",
            "big (2.00 GiB on gpu0, not used for 1 min) left for it.",
            "With 2.00 GiB more on gpu0 and 1.00 GiB more of RAM, nobody would have had to leave for it.",
            "With 2.00 GiB more on gpu0, nobody would have had to leave for it.",
        ),
    ),
    (
        unloaded("evicted", decision=GPU_EXCESS),
        (
            "big left box1: the models there needed 1.00 GiB more together than the limit of 3.00 GiB on "
            "gpu0.",
            "Also in memory: b (1 request used it).",
        ),
    ),
    (
        InstanceLoaded(
            node="box1",
            model_id="tiny",
            instance_id="i",
            pid=1,
            resident_bytes=GIB,
            load_ms=1494.7,
            gpu_bytes=2 * GIB,
            gpus={"gpu0": 2 * GIB},
        ),
        ("tiny was loaded on box1 in 1.5 s: it takes 3.00 GiB (2.00 GiB on gpu0).",),
    ),
    (
        started(NO_ROOM),
        (
            "tiny began to load on box1 because 1 request needed it.",
            "It needed 2.00 GiB, and 512.0 MiB of 8.00 GiB was free.",
            "Nobody had to leave for it.",
        ),
    ),
    (
        started(EVICTION, "big"),
        (
            "tiny began to load on box1 because 3 requests needed it, after 2.2 s of waiting.",
            "It needed 2.00 GiB, and 512.0 MiB of 8.00 GiB was free.",
            "big (3.00 GiB, not used for 2 min 3 s) left for it.",
            "Of those that could leave, big had not been used for longest.",
            "Also in memory: b (not used for 30 s), c (2 requests used it), d (it was pinned), "
            "e (it was to stay for another 2.5 s), f (it was loading) and 3 more.",
            "With 1.50 GiB more memory, nobody would have had to leave for it.",
            "Had d not been pinned, b and d would have left for it.",
            "Had nobody used c, c would have left for it.",
            "Had big been used after 2026-11-28T11:59:30Z, b would have left for it.",
        ),
    ),
    (
        started(Decision(purpose="promotion", need_bytes=GIB, free_bytes=4 * GIB, limit_bytes=8 * GIB)),
        (
            "tiny began to load on box1 because it is being promoted.",
            "It needed 1.00 GiB, and 4.00 GiB of 8.00 GiB was free.",
            "Nobody had to leave for it.",
        ),
    ),
    (
        started(BY_POLICY, "a", "big"),
        (
            "tiny began to load on box1 because it was likely to be used soon: nobody had asked for it yet.",
            "It needed 2.00 GiB, and nothing of 8.00 GiB was free; other programs left only 5.00 GiB of "
            "that.",
            "a (1.00 GiB, which was leaving already) and big (1.00 GiB, not used for 1 h 6 min) left for it.",
            "Of those that could leave, the policy best_lately found big worth least.",
            "Also in memory: b (not used for 1 d 3 h).",
            "Had the policy found big worth more, b would have left for it.",
        ),
    ),
    (
        started(None, "a", "big"),
        (
            "tiny began to load on box1: 2.00 GiB were reserved for it.",
            "a and big left for it.",
            "An older version wrote this event: it does not say what else was weighed.",
        ),
    ),
    (
        InstanceLoaded(
            node="box1", model_id="tiny", instance_id="i", pid=1, resident_bytes=GIB, load_ms=1494.7
        ),
        ("tiny was loaded on box1 in 1.5 s: it takes 1.00 GiB.",),
    ),
    (
        InstanceLoadFailed(
            node="box1", model_id="tiny", instance_id="i", code="load_failed", message="it is damaged"
        ),
        ("tiny could not be loaded on box1: it is damaged (load_failed).",),
    ),
    (
        InstanceLoadFailed(
            node="box1", model_id="tiny", instance_id="i", code="load_cancelled", message="ended"
        ),
        ("The load of tiny on box1 was ended before it was ready.",),
    ),
    (
        unloaded("requested", requested_by="suite unload, process 4711"),
        ("big was unloaded on box1: suite unload, process 4711 asked for it.",),
    ),
    (unloaded("requested"), ("big was unloaded on box1: somebody asked for it.",)),
    (
        unloaded("idle", unused_seconds=301, keep_alive_seconds=300),
        ("big was unloaded on box1: nobody had used it for 5 min 1 s, and it is kept for 5 min.",),
    ),
    (unloaded("idle"), ("big was unloaded on box1: nobody had used it for as long as it is kept.",)),
    (
        unloaded("evicted", evicted_for="tiny", decision_seq=5, unused_seconds=123),
        ("big left box1 so that tiny could be loaded (event 5). It had not been used for 2 min 3 s.",),
    ),
    (unloaded("evicted"), ("big left box1 to make room for another model.",)),
    (
        unloaded("evicted", decision=EXCESS),
        (
            "big left box1: the models there needed 1.00 GiB more together than the limit of 8.00 GiB.",
            "Also in memory: b (1 request used it).",
        ),
    ),
    (unloaded("shutdown"), ("big was unloaded on box1: the service stopped.",)),
    (
        unloaded("node_lost"),
        ("big was gone from box1 when the service started again: it had ended without a stop.",),
    ),
    (unloaded("file_removed"), ("big was unloaded on box1: its file was deleted.",)),
    (
        unloaded("file_changed"),
        ("big was unloaded on box1: its file has other content than was loaded.",),
    ),
    (
        crashed(-9, for_lack_of_memory=True),
        (
            "The process of tiny on box1 was killed by the kernel for lack of memory, with 2 generations in "
            "it: set memory_limit_gb lower; the next request loads the model again.",
        ),
    ),
    (
        crashed(3),
        (
            "The process of tiny on box1 died with exit code 3 and 2 generations in it: the next request "
            "loads the model again.",
        ),
    ),
    (
        WaitStarted(node="box1", model_id="tiny", place=1, waits_for=("a", "b"), decision=WAIT),
        (
            "1,000 requests waited for tiny on box1, for 1.0 s by then; it was next in line.",
            "It needed 2.00 GiB, and 512.0 MiB of 8.00 GiB was free.",
            "It waited until a (1 request still used it, it took no others) and b (2 requests used it, and "
            "had 0.5 s left of its turn) could leave.",
            "Also in memory: c (it was to leave for another model in front) and d (it serves under an alias "
            "to which another version was being promoted).",
            "With 1.00 GiB more memory, it would have been loaded at once, and a would have left for it.",
            "Had nobody used b, it would have been loaded at once, and a and b would have left for it.",
        ),
    ),
    (
        WaitStarted(node="box1", model_id="tiny", place=2, decision=NO_ROOM),
        (
            "1 request waited for tiny on box1, for 0 s by then; it had place 2 in the line.",
            "It needed 2.00 GiB, and 512.0 MiB of 8.00 GiB was free.",
        ),
    ),
    (
        WaitEnded(node="box1", model_id="tiny", served=2, refused=1, withdrawn=1, longest_seconds=12.5),
        (
            "The wait for tiny on box1 was over: 2 requests got it, 1 request waited in vain and 1 request "
            "gave up. The longest wait was 12 s.",
        ),
    ),
    (
        RequestsRefused(
            node="box1", model_id="tiny", code="overloaded", message="too many wait", waited_seconds=0.04
        ),
        ("A request for tiny was refused on box1: too many wait (overloaded).",),
    ),
    (
        RequestsRefused(
            node="box1", model_id="tiny", code="overloaded", message="no room", purpose="preload"
        ),
        ("A load of tiny for a bet was refused on box1: no room (overloaded).",),
    ),
    (
        RequestsRefused(
            node="box1",
            model_id="tiny",
            code="model_quarantined",
            message="left alone",
            purpose="pin",
            requests=2,
            within_seconds=60,
        ),
        ("2 loads of tiny for its pin were refused on box1 within 1 min: left alone (model_quarantined).",),
    ),
    (
        RequestsRefused(
            node="box1",
            model_id="tiny",
            code="not_enough_memory",
            message="it never fits",
            requests=4000,
            within_seconds=60,
            waited_seconds=1.5,
            decision=TOO_BIG,
        ),
        (
            "4,000 requests for tiny were refused on box1 within 1 min after 1.5 s: it never fits "
            "(not_enough_memory).",
            "With 1.00 GiB more memory, its requests could have waited for their turn.",
            "Had d not been pinned, its requests could have waited for their turn.",
        ),
    ),
    (
        ModelRegistered(
            model_id="tiny",
            node="box1",
            file_name="tiny.gguf",
            file_bytes=GIB,
            sha256="",
            architecture="llama",
            parameters=1,
            quantization="Q4_1",
            trained_context_tokens=8,
        ),
        ("box1 found tiny in tiny.gguf, 1.00 GiB.",),
    ),
    (
        ModelRegistered(
            model_id="captain",
            node="box1",
            file_name="pirate.gguf, polite.gguf",
            file_bytes=GIB,
            sha256="",
            architecture="llama",
            parameters=1,
            quantization="Q4_1",
            trained_context_tokens=8,
            base="tiny",
            adapters=(
                AppliedAdapter(id="pirate", sha256="", scale=1.0),
                AppliedAdapter(id="polite", sha256="", scale=0.5),
            ),
        ),
        ("box1 found captain, which stands for tiny with pirate and polite x 0.5.",),
    ),
    (
        InstanceLoaded(
            node="box1",
            model_id="tiny",
            instance_id="i",
            pid=1,
            resident_bytes=GIB,
            gpu_bytes=GIB,
            estimated_bytes=3 * GIB,
            load_ms=90_400,
        ),
        ("tiny was loaded on box1 in 1 min 30 s: it takes 2.00 GiB, and 3.00 GiB had been estimated.",),
    ),
    (
        InstanceGrew(node="box1", model_id="tiny", instance_id="i", reserved_bytes=2 * GIB),
        ("tiny on box1 needs more memory by now: it counts for 2.00 GiB.",),
    ),
    (
        ModelQuarantined(
            model_id="tiny",
            node="box1",
            content="",
            settings_key="",
            failures=3,
            until=NOON + timedelta(minutes=4),
            instance_id="i",
            reason="exit code 3",
        ),
        (
            "tiny is left alone on box1 until 2026-11-28T12:04:00Z: it failed 3 times in a row, the last "
            "time with: exit code 3.",
        ),
    ),
    (
        ModelReleased(model_id="tiny", node="box1", reason="worked"),
        ("tiny was tried again on box1 and worked: it is loaded like any other.",),
    ),
    (
        ModelReleased(model_id="tiny", node="box1", reason="requested"),
        ("tiny was released on box1: it is loaded like any other again.",),
    ),
    (
        PredictionMade(
            model_id="tiny",
            node="box1",
            prediction_id="p",
            chance=0.75,
            estimate=0.7,
            horizon_seconds=1800,
            saves_seconds=1.5,
            costs_seconds=0.25,
            bytes=2 * GIB,
            evicting=("big",),
            losers=(
                Loser(model_id="b", chance=0.5, saves_seconds=1, costs_seconds=2),
                Loser(model_id="c", chance=0.004, saves_seconds=1),
            ),
        ),
        (
            "box1 expected with a chance of 75% that tiny would be used within 30 min, and so loads it "
            "before anybody asks.",
            "That was expected to save 1.5 s of waiting and to cost 0.25 s; it takes 2.00 GiB.",
            "If there was no room, big could have left for it.",
            "Not loaded were b (50%, would have saved 1.0 s and cost 2.0 s) and c (0.4%, there was no room "
            "for it).",
        ),
    ),
    (
        settled("hit", "used"),
        (
            "The bet on tiny on box1 was won: it was used, and 1.5 s of its load were saved. It took 0.5 GiB "
            "hours of memory.",
        ),
    ),
    (
        settled("waste", "not_used"),
        ("The bet on tiny on box1 was lost: nobody used it in time. It took 0.5 GiB hours of memory.",),
    ),
    (
        settled("waste", "left"),
        (
            "The bet on tiny on box1 was lost: it left memory before anybody used it (evicted). It took "
            "0.5 GiB hours of memory.",
        ),
    ),
    (
        settled("waste", "failed"),
        ("The bet on tiny on box1 was lost: it was not loaded (evicted). It took 0.5 GiB hours of memory.",),
    ),
    (ModelRemoved(model_id="tiny", node="box1"), ("The file of tiny is gone from box1.",)),
    (ModelPinned(model_id="tiny", node="box1"), ("tiny was pinned on box1: it stays loaded.",)),
    (
        ModelUnpinned(model_id="tiny", node="box1"),
        ("tiny was unpinned on box1: it need not stay loaded any longer.",),
    ),
    (
        NodeStarted(node="box1", version="1", host="h", pid=1, memory_limit_bytes=1),
        ("The service on box1 started.",),
    ),
    (NodeStopped(node="box1", epoch=1), ("The service on box1 stopped.",)),
    (
        NodeLost(node="box1", epoch=1, observer="box2"),
        ("The service on box1 ended without a stop, as box2 noticed.",),
    ),
    (
        NodeDraining(node="box1", epoch=1, requested_by="ci"),
        ("box1 is being drained, as ci asked: it gets no new work that another node can do.",),
    ),
    (
        NodeResumed(node="box1", epoch=1, requested_by=""),
        ("box1 takes work again: it is not drained any more.",),
    ),
    (
        AliasSet(alias="chat", model_id="tiny", version=2, requested_by="ada"),
        ("chat stands for tiny@2, as ada asked.",),
    ),
    (AliasSet(alias="chat", model_id="tiny"), ("chat stands for tiny.",)),
    (
        AliasRemoved(alias="chat"),
        ("chat was removed: it stands for nothing any more in the log.",),
    ),
    (
        PromotionStarted(
            **PROMOTION,
            old_model_id="small",
            canary_share=0.1,
            gates=Gates(evaluations=12),
            take_back=("retraction", "crash_loop"),
        ),
        (
            "tiny@2 is to be promoted to chat; until then small serves.",
            "Once it is ready, it gets 10 % of the requests.",
            "It needs 12 evaluations at least, and is to meet its gates with a confidence of 0.95.",
            "It is taken back by itself if an evaluation of it is retracted or if it fails again and again.",
        ),
    ),
    (
        PromotionStarted(
            **PROMOTION,
            old_model_id="small",
            canary_share=0.5,
            gates=Gates(canary_requests=100, canary_seconds=3600),
        ),
        (
            "tiny@2 is to be promoted to chat; until then small serves.",
            "Once it is ready, it gets 50 % of the requests.",
            "It has its share for 100 requests and 1 h at least.",
        ),
    ),
    (
        Promoted(
            **PROMOTION,
            old_model_id="small",
            findings=(Finding(gate="canary_requests", verdict="met", needed=100, found=104),),
        ),
        (
            "chat stands for tiny@2, which is ready; before, it stood for small.",
            "canary_requests = 100 is met: there were 104.",
        ),
    ),
    (
        CanaryStarted(**PROMOTION, canary_share=0.25, node="box1"),
        ("tiny@2 is ready on box1, and gets 25 % of the requests for chat.",),
    ),
    (
        Promoted(**PROMOTION, old_model_id="small", old_version=3, node="box1", findings=FINDINGS),
        (
            "chat stands for tiny@2, which is ready on box1; before, it stood for small@3.",
            "accuracy.not_worse_by = 0.02 is met: 0.91 (0.88 to 0.94) over 12 evaluations of the new "
            "version and 0.9 over 1 evaluation of the old version.",
        ),
    ),
    (
        PromotionStopped(**PROMOTION, reason="gates", detail="accuracy.at_least"),
        ("tiny@2 was not promoted to chat: evaluations show that it does not meet accuracy.at_least.",),
    ),
    (
        PromotionStopped(**PROMOTION, reason="requested"),
        ("tiny@2 was not promoted to chat: somebody ended it.",),
    ),
    (
        PromotionStopped(**PROMOTION, reason="load_failed", detail="no memory"),
        ("tiny@2 was not promoted to chat: it could not be loaded: no memory.",),
    ),
    (
        PromotionStopped(**PROMOTION, reason="crash_loop", detail="tiny@2 failed again and again"),
        ("tiny@2 was not promoted to chat: tiny@2 failed again and again, and is quarantined.",),
    ),
    (
        PromotionStopped(**PROMOTION, reason="gone", detail="tiny@2 is on no node any more"),
        ("tiny@2 was not promoted to chat: tiny@2 is on no node any more.",),
    ),
    (
        PromotionStopped(**PROMOTION, reason="not_enough_memory", detail="tiny@2 does not fit"),
        ("tiny@2 was not promoted to chat: tiny@2 does not fit.",),
    ),
    (
        PromotionStopped(**PROMOTION, reason="waited_too_long", detail="it waited 30 d; promote it again"),
        ("tiny@2 was not promoted to chat: it waited 30 d; promote it again.",),
    ),
    (
        TakenBack(**PROMOTION, old_model_id="small", reason="requested", requested_by="ada"),
        ("tiny@2 was taken back: chat stands for small again, as ada asked.",),
    ),
    (
        TakenBack(**PROMOTION, old_model_id="small", reason="retraction", detail="e was retracted"),
        ("tiny@2 was taken back: chat stands for small again, because e was retracted.",),
    ),
    (UsageRecorded(model_id="tiny", usage_type="inference"), ()),
    (
        BenchmarkStarted(
            **BENCHMARK,
            node="box1",
            content="",
            settings_key="",
            cycle_id="w48",
            streams=(1, 4),
            rounds=5,
            prompt_tokens=256,
            answer_tokens=64,
            questions=(NumberedQuestion(line=1, question=Question(prompt="x", judge="y")),),
            broken_line_count=2,
            judge="gemma",
            requested_by="ci",
        ),
        (
            "The benchmark b of tiny was started on box1, as ci asked.",
            "It measures the speed with 1 and 4 generations beside each other, 5 times each.",
            "It asks 1 question; gemma judges where that is wanted. 2 broken lines of the set are left out.",
        ),
    ),
    (
        BenchmarkProgressed(
            **BENCHMARK,
            answers=(AnswerSample(line=1, outcome="passed"), AnswerSample(line=2, outcome="failed")),
        ),
        ("The benchmark b of tiny has measured 0 rounds and 2 answers more.",),
    ),
    (
        BenchmarkProgressed(**BENCHMARK, waits=True, waited_seconds=75.0),
        ("The benchmark b of tiny waits until nobody else uses the node: 1 min 15 s so far.",),
    ),
    (
        BenchmarkFinished(
            **BENCHMARK,
            evaluation_id="e",
            result=BenchmarkResult(
                load=None,
                prompt_tokens=256,
                answer_tokens=64,
                speed=(),
                quality=None,
                disturbed_rounds=1,
                interrupted=2,
                waited_seconds=640.0,
            ),
        ),
        (
            "The benchmark b of tiny is finished: its result is the evaluation e.",
            "It waited 10 min 40 s until nobody else used the node.",
            "What others had interrupted, 2 times, was measured again.",
            "Others used the node during 1 round, as it had waited for them long enough.",
        ),
    ),
    (
        BenchmarkFinished(
            **BENCHMARK,
            evaluation_id="e",
            result=BenchmarkResult(
                load=None,
                prompt_tokens=256,
                answer_tokens=64,
                speed=(),
                quality=Quality(
                    set_sha256="",
                    accuracy=Share(share=0.5, low=0.25, high=0.75, samples=8),
                    passed=4,
                    failed=4,
                    unclear=1,
                    refused=0,
                    broken_lines=0,
                    latency_ms=None,
                ),
            ),
        ),
        (
            "The benchmark b of tiny is finished: its result is the evaluation e.",
            "4 of 8 answers passed: an accuracy between 25 % and 75 %, with 95 % confidence.",
        ),
    ),
    (
        BenchmarkFailed(**BENCHMARK, code="load_failed", message="the file is cut off"),
        ("The benchmark b of tiny has failed: the file is cut off (load_failed).",),
    ),
    (
        BenchmarkMoved(**BENCHMARK, node="box2", lost_node="box1", settings_key="", answered=1),
        (
            "The benchmark b of tiny goes on on box2, as box1 is lost.",
            "What was measured of the speed is measured again there.",
            "1 answer of before count.",
        ),
    ),
    (
        BenchmarkCancelled(**BENCHMARK, requested_by="ci"),
        ("The benchmark b of tiny was cancelled, as ci asked.",),
    ),
)


@pytest.mark.parametrize(
    ("event", "expected"), TABLE, ids=[f"{number}-{event.fact}" for number, (event, _) in enumerate(TABLE)]
)
def test_the_sentences_of(event: Event, expected: tuple[str, ...]) -> None:
    assert sentences(recorded(event)) == expected


def test_an_eviction_says_what_would_have_kept_the_model() -> None:
    gone = recorded(unloaded("evicted", evicted_for="tiny", decision_seq=5, unused_seconds=0.0), seq=9)
    assert sentences(gone, recorded(started(EVICTION, "big"), seq=5)) == (
        "big left box1 so that tiny could be loaded (event 5).",
        "With 1.50 GiB more memory, nobody would have had to leave.",
        "Had d not been pinned, b and d would have left for tiny.",
        "Had nobody used c, c would have left for tiny.",
        "Had big been used after 2026-11-28T11:59:30Z, b would have left for tiny.",
    )


def test_an_eviction_of_an_older_version_is_told_by_the_load_that_it_was_for() -> None:
    gone = recorded(unloaded("evicted"), seq=9)
    assert sentences(gone, recorded(started(None, "big"), seq=5)) == (
        "big left box1 so that tiny could be loaded (event 5).",
    )


def test_every_event_that_is_explained_is_in_the_table() -> None:
    assert set(FACTS) <= {type(event) for event, _ in TABLE}
