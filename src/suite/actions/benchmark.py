"""run_benchmark, follow_benchmark, get_benchmarks and cancel_benchmark."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Final, TypeVar

import anyio
from msgspec.structs import replace

from suite.bus.service import Call, action
from suite.catalogue import Model
from suite.domain.benchmark import UNKNOWN, Benchmark, differences, evolve
from suite.domain.question_set import QuestionSet, read_set
from suite.errors import (
    BenchmarkNotFound,
    Cancelled,
    CannotGenerate,
    Conflict,
    InvalidRequest,
    ModelNotFound,
    NoChatTemplate,
    NodeLost,
    UnknownOutcome,
    error_from_reply,
)
from suite.messages.actions.benchmark import (
    CancelBenchmarkReply,
    CancelBenchmarkRequest,
    FollowBenchmarkReply,
    FollowBenchmarkRequest,
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
from suite.node.heartbeats import beating
from suite.node.node import Node
from suite.projections import benchmarks as read_model
from suite.tasks import background

PROMPT_TOKENS: Final = 256
ANSWER_TOKENS: Final = 64
ABSENT_SECONDS: Final = 30.0
"""A node that was away for so long is not waited for by those who want to see its benchmark finished; another
one takes it over before that, if any does."""
_LOOK_SECONDS: Final = 1.0

R = TypeVar("R", bound=RunBenchmarkReply)


@action("run_benchmark", limit=256, queue=0, route="model")
async def run_benchmark(node: Node, request: RunBenchmarkRequest, call: Call) -> RunBenchmarkReply:
    """Measure how fast a model is, and how well it answers."""
    signalled = call if request.stream else None
    with anyio.CancelScope() as scope:
        async with beating(signalled, scope.cancel):
            known = await _start(node, request, call)
            if known.end is None and request.wait:
                known = await _watch(node, known, signalled)
            return await _reply(node, known, RunBenchmarkReply)
    raise Cancelled("nobody waits for this benchmark any more: it goes on")


@action("follow_benchmark", limit=256, queue=0)
async def follow_benchmark(node: Node, request: FollowBenchmarkRequest, call: Call) -> FollowBenchmarkReply:
    """Show a benchmark that was started before, and wait for its end."""
    signalled = call if request.stream else None
    with anyio.CancelScope() as scope:
        async with beating(signalled, scope.cancel):
            known = await _known(node, request)
            if known.end is None and request.wait:
                known = await _watch(node, known, signalled)
            return await _reply(node, known, FollowBenchmarkReply)
    raise Cancelled("nobody waits for this benchmark any more: it goes on")


async def _known(node: Node, request: FollowBenchmarkRequest) -> Benchmark:
    """What the log says of a benchmark. Raises BenchmarkNotFound, and Conflict for one of another model."""
    known = UNKNOWN
    async for recorded in node.log.read(_events(node, request.benchmark_id)):
        known = evolve(known, recorded.data)
    if known.started is None:
        raise _not_found(request.benchmark_id)
    if request.model_id is not None and node.fleet.meant(request.model_id) != known.started.model_id:
        raise Conflict(
            f"{request.benchmark_id!r} is a benchmark of {known.started.model_id}, not of {request.model_id}"
        )
    return known


def _not_found(benchmark_id: str) -> BenchmarkNotFound:
    return BenchmarkNotFound(f"no benchmark {benchmark_id!r}: see the list of benchmarks")


async def _start(node: Node, request: RunBenchmarkRequest, call: Call) -> Benchmark:
    """The benchmark of a request: started now, unless its id is known. Raises Conflict for another one."""
    model = await node.loadable(request.model_id)
    if model.info is not None and not model.info.generates:
        raise CannotGenerate
    questions = await _questions(node, model, request)
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
        if different := differences(state.started, wanted):
            raise Conflict(
                f"{wanted.benchmark_id!r} is the id of another benchmark, which differs in "
                f"{', '.join(different)}: choose another id, or follow that one (`suite bench --id "
                f"{wanted.benchmark_id}`)"
            )
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


async def _questions(node: Node, model: Model, request: RunBenchmarkRequest) -> QuestionSet:
    """The questions of a request.

    Raises InvalidRequest, TooLarge, ModelNotFound for the judge, and NoChatTemplate for it or the model:
    questions are chats.
    """
    if request.set_jsonl is None:
        return QuestionSet()
    found = read_set(request.set_jsonl)
    found = found.without(await problems(found.questions))
    found.require_questions()
    if not model.has_chat_template:
        raise NoChatTemplate(
            f"{model.model_id} has no chat template, and a set asks by chats: configure its chat_template, "
            "or measure the speed only"
        )
    judged = next((each.line for each in found.questions if each.question.judge is not None), None)
    if judged is None:
        return found
    if request.judge is None:
        raise InvalidRequest(f"line {judged} of the set needs a judge: name the model in the field 'judge'")
    if not node.fleet.has(request.judge):
        raise ModelNotFound(f"no model {request.judge!r} to judge: see the list of models")
    if node.fleet.chats(request.judge) is False:
        raise NoChatTemplate(
            f"{request.judge} cannot judge, as it has no chat template: name another model that has one, or "
            "configure its chat_template"
        )
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
        may_move=request.node is None,
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
    started = _started(known)
    async with background() as tasks:
        known = UNKNOWN
        tasks.start_soon(_until_absent, node, lambda: (known.started or started).node, tasks.cancel_scope)
        events = node.log.read(_events(node, started.benchmark_id), follow=True)
        async with aclosing(events):
            async for recorded in events:
                known = evolve(known, recorded.data)
                if known.end is not None:
                    tasks.cancel_scope.cancel()
                    break
                if call is not None:
                    await call.send(_progress(known))
    if known.end is None:
        raise NodeLost(
            f"node {(known.started or started).node} is away, and no other one goes on with the benchmark "
            f"{started.benchmark_id}: ask for it again by this id when it is back"
        )
    return known


def _started(known: Benchmark) -> BenchmarkStarted:
    assert known.started is not None, "it was started"
    return known.started


async def _until_absent(node: Node, runs_on: Callable[[], str], scope: anyio.CancelScope) -> None:
    """Stop waiting when the node that is to run a benchmark was away for `ABSENT_SECONDS`."""
    seen = node.clock()
    while node.clock() - seen < ABSENT_SECONDS:
        if runs_on() == node.name or runs_on() in node.fleet.others:
            seen = node.clock()
        await anyio.sleep(_LOOK_SECONDS)
    scope.cancel()


def _progress(known: Benchmark) -> Benchmarking:
    started = _started(known)
    return Benchmarking(
        benchmark_id=started.benchmark_id,
        node=started.node,
        done=known.done,
        total=known.total,
        waits=known.waits,
    )


async def _reply(node: Node, known: Benchmark, kind: type[R]) -> R:
    """What is told of a benchmark. Raises the error that it failed with, and Cancelled."""
    started, end = _started(known), known.end
    if isinstance(end, BenchmarkFailed):
        message = f"the benchmark {started.benchmark_id} of {started.model_id} has failed: {end.message}"
        raise error_from_reply(end.code, message)
    if isinstance(end, BenchmarkCancelled):
        raise Cancelled(f"the benchmark {started.benchmark_id} was cancelled: start another one")
    finished = end if isinstance(end, BenchmarkFinished) else None
    last = await node.log.last(_events(node, started.benchmark_id))
    return kind(
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
            raise _not_found(request.benchmark_id)
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
