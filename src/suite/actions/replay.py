"""replay_history: what other rules and other memory would have come to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Literal

import anyio

from suite.bus.service import Call, action
from suite.errors import Cancelled, InvalidRequest, RequestTimeout
from suite.log import Log
from suite.messages.actions.replay import (
    ReplayAdvice,
    ReplayHistoryReply,
    ReplayHistoryRequest,
    ReplayOutcome,
)
from suite.messages.signals import Replaying
from suite.node.heartbeats import beating
from suite.node.node import Node
from suite.prediction.eviction.policy import Candidate
from suite.prediction.replay.belady import Belady
from suite.prediction.replay.history import (
    DEFAULT_LOAD_SECONDS,
    DEFAULT_MODEL_GB,
    GIGABYTE,
    History,
    LogHistory,
)
from suite.prediction.replay.job import Job, run_apart
from suite.prediction.replay.outcome import Outcome
from suite.prediction.replay.recommendation import Recommendation, sentences

REPLAY_SECONDS: Final = 300.0
"""How long a replay may take, the reading of the log included."""
_SHARES: Final = (0.5, 1.0, 2.0)
_AGGREGATES: Final = ("usage", "instance", "node")
_BATCH_EVENTS: Final = 100
"""How many events are decoded at one go: one or two milliseconds."""
_WAIT_SECONDS: Final = 0.1
_LEAST_TOLD: Final = 0.02
"""How much further the reading is when it is told again."""
_DEFAULT: Final = Candidate(
    model_id="", bytes=round(DEFAULT_MODEL_GB * GIGABYTE), reload_seconds=DEFAULT_LOAD_SECONDS
)


@action("replay_history", limit=1, queue=0)
async def replay_history(node: Node, request: ReplayHistoryRequest, call: Call) -> ReplayHistoryReply:
    """Replay the newest uses of the log under several policies and budgets."""

    async def tell(phase: Literal["reading", "replaying"], fraction: float) -> None:
        if request.stream:
            await call.send(Replaying(phase=phase, fraction=round(fraction, 3)))

    with anyio.move_on_after(REPLAY_SECONDS) as limit:
        async with beating(call if request.stream else None, limit.cancel):
            history = await _history(node.log, request, partial(tell, "reading"))
            job = Job(
                history=history,
                policies=request.policies,
                budgets=_budgets(request, history, node.supervisor.residency.limit_bytes.ram),
                with_bets=request.with_bets,
            )
            done = await run_apart(job, partial(tell, "replaying"))
        return ReplayHistoryReply(
            requests=len(history.requests),
            models=len(history.candidates),
            hours=round(history.hours, 2),
            remarks=history.remarks,
            outcomes=tuple(map(_told, done.outcomes)),
            advice=_advice(done.recommendation, done.outcomes),
        )
    if call.gone.is_set():
        raise Cancelled("nobody waits for this replay any more")
    raise RequestTimeout(
        f"the replay took longer than {REPLAY_SECONDS:.0f} s: send fewer requests, policies or budgets"
    )


async def _history(
    log: Log, request: ReplayHistoryRequest, tell: Callable[[float], Awaitable[None]]
) -> History:
    """The newest uses in the log, and what loads cost in that time. Raises InvalidRequest without any."""
    reading = LogHistory(node=request.of_node, default=_DEFAULT)
    end = (await log.extent()).last_seq
    begin = seq = await log.place_of_newest(["usage"], request.requests)
    told = 0.0
    async with log.follow(_AGGREGATES, after=seq, batch=_BATCH_EVENTS) as follower:
        follower.settle()
        while seq < end:
            batch = await follower.next(_WAIT_SECONDS)
            for event in batch.events:
                reading.fold(event)
            if not batch.pending:
                follower.settle()
            seq = batch.seq
            if (fraction := (min(seq, end) - begin) / (end - begin)) - told >= _LEAST_TOLD:
                await tell(fraction)
                told = fraction
    return reading.history()


def _budgets(request: ReplayHistoryRequest, history: History, limit_bytes: int) -> tuple[int, ...]:
    """The budgets in bytes: those of the request, or such as have room for any model of the history."""
    if request.memory_gb:
        return tuple(round(each * GIGABYTE) for each in request.memory_gb)
    smallest = min(each.footprint.ram for each in history.candidates.values())
    budgets = tuple(budget for share in _SHARES if (budget := round(share * limit_bytes)) >= smallest)
    if not budgets:
        raise InvalidRequest("field 'memory_gb': models may have too little memory here: name budgets")
    return budgets


def _told(outcome: Outcome) -> ReplayOutcome:
    assert outcome.memory_gb is not None, "all budgets are limited"
    return ReplayOutcome(
        name=outcome.name,
        policy=outcome.policy,
        memory_gb=outcome.memory_gb,
        with_bets=outcome.with_bets,
        knows_future=outcome.policy == Belady.name,
        cold_percent=round(outcome.cold_percent, 2),
        cold_starts=outcome.cold_starts,
        refused=outcome.refused,
        loads=outcome.loads,
        evictions=outcome.evictions,
        bets_won=outcome.bets_won,
        bets_lost=outcome.bets_lost,
        waited_p50_seconds=round(outcome.waited_p50_seconds, 3),
        waited_p95_seconds=round(outcome.waited_p95_seconds, 3),
        waited_seconds=round(outcome.waited_seconds, 3),
        gb_hours=round(outcome.gb_hours, 3),
    )


def _advice(advice: Recommendation, outcomes: tuple[Outcome, ...]) -> ReplayAdvice:
    assert advice.memory_gb is not None, "all budgets are limited"
    return ReplayAdvice(
        name=advice.name,
        memory_gb=advice.memory_gb,
        saved_seconds=round(advice.saved_seconds.estimate, 3),
        is_certain=advice.certain,
        sentences=tuple(sentences(advice, outcomes)),
    )
