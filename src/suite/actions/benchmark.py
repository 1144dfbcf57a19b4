"""run_benchmark, get_benchmarks and cancel_benchmark."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

import anyio
from msgspec.structs import replace

from suite.bus.service import Call, action
from suite.catalogue import Model
from suite.domain.benchmark import UNKNOWN, Benchmark, evolve, is_same
from suite.domain.question_set import QuestionSet, read_set
from suite.errors import (
    BenchmarkNotFound,
    Cancelled,
    CannotGenerate,
    Conflict,
    InvalidRequest,
    ModelNotFound,
    NodeLost,
    UnknownOutcome,
    error_from_reply,
)
from suite.messages.actions.benchmark import (
    CancelBenchmarkReply,
    CancelBenchmarkRequest,
    GetBenchmarksReply,
    GetBenchmarksRequest,
    RunBenchmarkReply,
    RunBenchmarkRequest,
)
from suite.messages.events import (
    BenchmarkCancelled,
    BenchmarkFailed,
    BenchmarkFinished,
    BenchmarkStarted,
    Event,
)
from suite.messages.signals import Benchmarking
from suite.messages.times import rfc3339
from suite.node.aggregate import settle
from suite.node.benchmarks.checking import problems
from suite.node.generations import beating
from suite.node.node import Node
from suite.projections import benchmarks as read_model
from suite.tasks import background

PROMPT_TOKENS: Final = 256
ANSWER_TOKENS: Final = 64
ABSENT_SECONDS: Final = 15.0
"""A node that was away for so long is not waited for by those who want to see its benchmark finished."""
_LOOK_SECONDS: Final = 1.0


@action("run_benchmark", limit=256, queue=0, route="model")
async def run_benchmark(node: Node, request: RunBenchmarkRequest, call: Call) -> RunBenchmarkReply:
    """Measure how fast a model is, and how well it answers."""
    signalled = call if request.stream else None
    with anyio.CancelScope() as scope:
        async with beating(signalled, scope.cancel):
            known = await _start(node, request, call)
            if known.end is None and request.wait:
                known = await _watch(node, known, signalled)
            return await _reply(node, known)
    raise Cancelled("nobody waits for this benchmark any more: it goes on")


async def _start(node: Node, request: RunBenchmarkRequest, call: Call) -> Benchmark:
    """The benchmark of a request: started now, unless its id is known. Raises Conflict for another one."""
    model = await node.loadable(request.model_id)
    if model.info is not None and not model.info.generates:
        raise CannotGenerate
    questions = await _questions(node, request)
    if not request.streams and not questions.questions:
        raise InvalidRequest("nothing is to be measured: name streams, or send a set of questions")
    wanted = await _wanted(node, model, request, questions, call)
    known = UNKNOWN

    def decide(state: Benchmark) -> Event | None:
        nonlocal known
        known = evolve(state, wanted)
        if state.started is None:
            node.benchmarks.require_room()
            return wanted
        if not is_same(state.started, wanted):
            raise Conflict(f"{wanted.benchmark_id!r} is the id of another benchmark: choose another one")
        return None

    try:
        with anyio.CancelScope(shield=True):  # what the log has is run, even if nobody waits for it any more
            await settle(
                node.log,
                _events(node, wanted.benchmark_id),
                f"the start of the benchmark {wanted.benchmark_id}",
                UNKNOWN,
                evolve=evolve,
                decide=decide,
                correlation_id=call.request_id,
            )
    except UnknownOutcome:
        node.benchmarks.add(wanted.benchmark_id)  # one that the log does not have is passed over
        raise
    started = known.started
    if started is not None and started.node == node.name and known.end is None:
        node.benchmarks.add(started.benchmark_id)
    return known


def _events(node: Node, benchmark_id: str) -> str:
    """The subject filter of the events of a benchmark."""
    return node.subjects.aggregate(BenchmarkStarted.aggregate, benchmark_id)


async def _questions(node: Node, request: RunBenchmarkRequest) -> QuestionSet:
    """The questions of a request. Raises InvalidRequest, TooLarge, and ModelNotFound for the judge."""
    if request.set_jsonl is None:
        return QuestionSet()
    found = read_set(request.set_jsonl)
    found = found.without(await problems(found.questions))
    found.require_questions()
    judged = next((each.line for each in found.questions if each.question.judge is not None), None)
    if judged is None:
        return found
    if request.judge is None:
        raise InvalidRequest(f"line {judged} of the set needs a judge: name the model in the field 'judge'")
    if not node.fleet.has(request.judge):
        raise ModelNotFound(f"no model {request.judge!r} to judge: see the list of models")
    return found


async def _wanted(
    node: Node, model: Model, request: RunBenchmarkRequest, questions: QuestionSet, call: Call
) -> BenchmarkStarted:
    prompt_tokens, answer_tokens = _lengths(model, request)
    content = await node.catalogue.digest(model.model_id)
    name = node.fleet.meant(request.model_id)
    needs_judge = any(each.question.judge is not None for each in questions.questions)
    return BenchmarkStarted(
        benchmark_id=request.benchmark_id or node.new_id(),
        model_id=name,
        node=node.name,
        content=content,
        settings_key=model.settings_key,
        version=await node.names.settled_number(request.model_id),
        cycle_id=request.cycle_id or f"bench-{rfc3339(node.now())}",
        streams=tuple(dict.fromkeys(request.streams)),
        rounds=request.rounds,
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        questions=questions.questions,
        set_sha256=questions.sha256,
        broken_lines=questions.told,
        broken_line_count=len(questions.broken),
        judge=node.fleet.meant(request.judge) if needs_judge and request.judge is not None else "",
        requested_by=call.client or "",
    )


def _lengths(model: Model, request: RunBenchmarkRequest) -> tuple[int, int]:
    """How long prompts and answers are. Raises InvalidRequest for more than the context has room for."""
    context = model.context_tokens
    answer = request.answer_tokens or min(ANSWER_TOKENS, max(context // 4, 2))
    prompt = request.prompt_tokens or max(min(PROMPT_TOKENS, context - answer), 1)
    if prompt + answer > context:
        raise InvalidRequest(
            f"prompts of {prompt} tokens and answers of {answer} do not fit into the context of "
            f"{model.model_id}, {context} tokens: ask for less"
        )
    return prompt, answer


async def _watch(node: Node, known: Benchmark, call: Call | None) -> Benchmark:
    """Wait until a benchmark has ended, and tell how far it is. Raises NodeLost if its node stays away."""
    started = known.started
    assert started is not None, "it was started"
    async with background() as tasks:
        tasks.start_soon(_until_absent, node, started.node, tasks.cancel_scope)
        known = UNKNOWN
        events = node.log.read(_events(node, started.benchmark_id), follow=True)
        async with aclosing(events):
            async for recorded in events:
                known = evolve(known, recorded.data)
                if known.end is not None:
                    tasks.cancel_scope.cancel()
                    break
                if call is not None:
                    await call.send(_progress(started, known))
    if known.end is None:
        raise NodeLost(
            f"node {started.node} is away: it goes on with the benchmark {started.benchmark_id} when it is "
            "back; ask for it again by this id"
        )
    return known


async def _until_absent(node: Node, name: str, scope: anyio.CancelScope) -> None:
    """Stop waiting when a node was away for `ABSENT_SECONDS`."""
    seen = node.clock()
    while node.clock() - seen < ABSENT_SECONDS:
        if name == node.name or name in node.fleet.others:
            seen = node.clock()
        await anyio.sleep(_LOOK_SECONDS)
    scope.cancel()


def _progress(started: BenchmarkStarted, known: Benchmark) -> Benchmarking:
    return Benchmarking(
        benchmark_id=started.benchmark_id, node=started.node, done=known.done, total=known.total
    )


async def _reply(node: Node, known: Benchmark) -> RunBenchmarkReply:
    """What is told of a benchmark. Raises the error that it failed with, and Cancelled."""
    started, end = known.started, known.end
    assert started is not None, "it was started"
    if isinstance(end, BenchmarkFailed):
        raise error_from_reply(end.code, end.message)
    if isinstance(end, BenchmarkCancelled):
        raise Cancelled(f"the benchmark {started.benchmark_id} was cancelled: start another one")
    finished = end if isinstance(end, BenchmarkFinished) else None
    last = await node.log.last(_events(node, started.benchmark_id))
    return RunBenchmarkReply(
        benchmark_id=started.benchmark_id,
        model_id=started.model_id,
        state=known.state,
        runs_on=started.node,
        broken_lines=started.broken_lines,
        evaluation_id=None if finished is None else finished.evaluation_id,
        result=None if finished is None else finished.result,
        # The evaluation is the next event after the end.
        seq=0 if last is None else last.seq + (finished is not None),
    )


@action("get_benchmarks", is_lookup=True)
async def get_benchmarks(node: Node, request: GetBenchmarksRequest, _: Call) -> GetBenchmarksReply:
    """Get benchmarks, newest first, also those that wait or run."""
    if request.model_id is not None:
        request = replace(request, model_id=node.fleet.meant(request.model_id))
    async with node.projections.evaluation.reading(request.min_seq, own_seq=node.last_seq) as db:
        return await read_model.benchmarks(db, request)


@action("cancel_benchmark")
async def cancel_benchmark(node: Node, request: CancelBenchmarkRequest, call: Call) -> CancelBenchmarkReply:
    """End a benchmark that waits or runs."""
    known = UNKNOWN

    def decide(state: Benchmark) -> Event | None:
        nonlocal known
        known = state
        if state.started is None:
            raise BenchmarkNotFound(f"no benchmark {request.benchmark_id!r}: see the list of benchmarks")
        if state.end is not None:
            return None
        cancelled = BenchmarkCancelled(
            benchmark_id=request.benchmark_id,
            model_id=state.started.model_id,
            requested_by=call.client or "",
        )
        known = evolve(state, cancelled)
        return cancelled

    seq = await settle(
        node.log,
        _events(node, request.benchmark_id),
        f"the end of the benchmark {request.benchmark_id}",
        UNKNOWN,
        evolve=evolve,
        decide=decide,
        correlation_id=call.request_id,
    )
    done = "is cancelled" if seq is not None else f"had ended before: {known.state}"
    return CancelBenchmarkReply(
        benchmark_id=request.benchmark_id,
        message=f"the benchmark {request.benchmark_id} {done}",
        state=known.state,
        seq=seq,
    )
