"""One benchmark, run from where the log says that it is to its end.

What was measured goes into the log every few seconds, so that a restart repeats no more than that. Each
append expects that nobody else has written about the benchmark meanwhile: who loses reads the log again, so
that a cancelled benchmark ends, and no benchmark has two results.

Others who use the node go first (`others.py`): a round, an answer or a judgement begins when nobody is there,
is stopped when somebody comes, and is done anew when they have gone. What has waited long enough is done
beside them (`suite.domain.benchmark.patience`), and says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection
from contextlib import aclosing
from functools import partial
from typing import Final, TypeVar

import anyio
from msgspec.structs import replace

from suite.catalogue import Catalogue, Model
from suite.domain.benchmark import (
    UNKNOWN,
    Benchmark,
    Timed,
    evolve,
    finish,
    news,
    patience,
    round_of,
    with_known,
)
from suite.domain.judging import verdict
from suite.domain.trust import Evidence, quality
from suite.errors import (
    AccessDenied,
    ActorCrashed,
    Cancelled,
    CannotGenerate,
    Conflict,
    Disabled,
    LoadCancelled,
    LoadFailed,
    LogNotWritable,
    ModelFileGone,
    ModelFileInvalid,
    ModelNotFound,
    ModelUnloading,
    NoChatTemplate,
    NodeLost,
    NodeStopping,
    NoService,
    NotEnoughMemory,
    Overloaded,
    Quarantined,
    ReadModelBehind,
    ReadModelUnavailable,
    RequestTimeout,
    SuiteError,
    Unavailable,
    UnknownOutcome,
)
from suite.identity import Clock, Now
from suite.log import Expectation, Log
from suite.messages.benchmarks import AnswerSample, NumberedQuestion, RoundSample
from suite.messages.events import BenchmarkFailed, BenchmarkStarted, Event
from suite.messages.subjects import Subjects
from suite.node.benchmarks.asking import LOAD_WAIT_MS, Answer, Asking
from suite.node.benchmarks.checking import check
from suite.node.benchmarks.others import LOOK_SECONDS, Others
from suite.node.versions import Names, VersionBook
from suite.projections.projector import Projector
from suite.projections.trust import evidence_of
from suite.tasks import background

logger = logging.getLogger("suite.benchmarks")

T = TypeVar("T")

TELL_SECONDS: Final = 2.0
"""How often the log is told what was measured."""
RETRY_SECONDS: Final = 1.0
MOST_CRASHES: Final = 3
"""A model that crashes so many times while it is measured is not measured any further."""

_PASSING: Final = (
    Cancelled,
    LoadCancelled,
    LogNotWritable,
    ModelUnloading,
    NodeLost,
    NodeStopping,
    NoService,
    Overloaded,
    ReadModelBehind,
    ReadModelUnavailable,
    RequestTimeout,
    Unavailable,
    UnknownOutcome,
)
"""Errors that say nothing about the model: it is tried again, until the benchmark is cancelled."""
_OF_THE_MODEL: Final = (
    AccessDenied,
    ActorCrashed,
    CannotGenerate,
    Conflict,
    Disabled,
    LoadFailed,
    ModelFileGone,
    ModelFileInvalid,
    ModelNotFound,
    NoChatTemplate,
    NotEnoughMemory,
    Quarantined,
)
"""Errors with which a model can answer no question. All others are of the question."""


class Job:
    """One benchmark of this node."""

    def __init__(
        self,
        benchmark_id: str,
        *,
        node: str,
        asking: Asking,
        others: Others,
        log: Log,
        subjects: Subjects,
        catalogue: Catalogue,
        versions: VersionBook,
        evaluation: Projector,
        now: Now,
        clock: Clock,
    ) -> None:
        self._id = benchmark_id
        self._node = node
        self._asking = asking
        self._others = others
        self._log = log
        self._aggregate = subjects.aggregate(BenchmarkStarted.aggregate, benchmark_id)
        self._catalogue = catalogue
        self._versions = versions
        self._names = Names(versions, catalogue)
        self._evaluation = evaluation
        self._now, self._clock = now, clock
        self._known = UNKNOWN
        """What the log says."""
        self._last_seq = 0
        self._measured = UNKNOWN
        """That, and what it has not been told yet."""
        self._told_at = -math.inf
        self._took = 0.0
        """How long the last round or answer took, in seconds."""
        self._crashes = 0

    async def run(self) -> None:
        """Run it to its end. Nothing happens if it has ended, or another node has taken it over."""
        await self._until_read()
        if self._known.started is None or not self._is_own(self._known):
            return
        async with background() as tasks:
            tasks.start_soon(self._until_ended, tasks.cancel_scope)
            try:
                await self._measure(self._known.started)
                await self._finish()
            except SuiteError as error:
                await self._fail(error)
            except Exception:
                logger.exception("the benchmark %s has failed", self._id)
                await self._fail(SuiteError("its node failed on it: see the log of its process"))

    async def _until_ended(self, scope: anyio.CancelScope) -> None:
        """Stop when the log says that it has ended, as somebody has cancelled it, or is another node's."""
        known = self._known
        async with aclosing(self._log.read(self._aggregate, after=self._last_seq, follow=True)) as events:
            async for recorded in events:
                known = evolve(known, recorded.data)
                if not self._is_own(known):
                    scope.cancel()

    def _is_own(self, known: Benchmark) -> bool:
        """Whether it is this node that is to go on with it."""
        return known.started is not None and known.end is None and known.started.node == self._node

    # --- measuring ----------------------------------------------------------------------------------------

    async def _measure(self, started: BenchmarkStarted) -> None:
        """Measure what is left. Raises the errors that are of the model."""
        await self._check_model(started)
        if self._measured.load is None:
            await self._until_quiet(self._model(started), patience(self._measured, self._took))
            await self._go_on()
            load = await self._patiently(partial(self._asking.load, started.model_id))
            self._measured = replace(self._measured, load=load)  # the log is told with the first sample
        await self._measure_speed(started)
        await self._ask_questions(started)

    async def _check_model(self, started: BenchmarkStarted) -> None:
        """Check that the model is still the one that was to be measured, and would be loaded like it.

        Raises Conflict, ModelNotFound and ModelFileGone.
        """
        model = self._catalogue.resolve(started.model_id)
        if await self._catalogue.digest(model.model_id) != started.content:
            raise _changed(started, "content")
        if model.settings_key != started.settings_key:
            raise _changed(started, "settings")
        await self._versions.reach(self._last_seq)  # after a start, the versions are read meanwhile
        # 0: the version was not known then. Benchmarks of older services knew none of one with adapters.
        if started.version and started.version != await self._names.settled_number(started.model_id):
            raise _changed(started, "settings or adapters")

    async def _measure_speed(self, started: BenchmarkStarted) -> None:
        left, model = list(self._measured.rounds_left()), self._model(started)
        if left:  # the first use after a load is slower, as pages of the file are still on the disk
            await self._giving_way(partial(self._round, started, 1, started.rounds), model)
        for streams, number in left:
            sample = await self._giving_way(partial(self._round, started, streams, number), model)
            rounds = {**self._measured.rounds, (streams, number): sample}
            await self._note(replace(self._measured, rounds=rounds))

    async def _round(self, started: BenchmarkStarted, streams: int, number: int) -> RoundSample:
        """Measure so many generations beside each other.

        Raises the first error of them, and ModelUnloading if the model has made way for others meanwhile:
        then they were not beside each other.
        """
        prompts = [
            await self._asking.speed_tokens(
                started.model_id, started.prompt_tokens, streams=streams, number=number, stream=stream
            )
            for stream in range(streams)
        ]
        timed: list[Timed] = []
        failures: list[SuiteError] = []
        model_id = self._model(started).model_id
        instance = self._asking.instance_of(model_id)

        async def generate(tokens: tuple[int, ...], scope: anyio.CancelScope) -> None:
            try:
                timed.append(await self._asking.timed(started.model_id, tokens, started.answer_tokens))
            except SuiteError as error:
                failures.append(error)
                scope.cancel()

        begun, were_there, count = self._clock(), self._others.are_there(), self._others.count
        async with anyio.create_task_group() as tasks:
            for tokens in prompts:
                tasks.start_soon(generate, tokens, tasks.cancel_scope)
        seconds = self._clock() - begun
        if failures:
            raise failures[0]
        if self._asking.instance_of(model_id) != instance:
            raise ModelUnloading(f"{model_id} has made way for other models")
        is_disturbed = were_there or self._others.count > count
        return round_of(streams, number, timed, seconds=seconds, disturbed=is_disturbed)

    async def _ask_questions(self, started: BenchmarkStarted) -> None:
        """Ask all questions, and then the judge: so the two models need not be in memory together.

        Answers are kept nowhere but here. After a restart, those that no judge has seen are asked for again.
        """
        to_judge: list[tuple[NumberedQuestion, Answer]] = []
        model = self._model(started)
        for each in list(self._measured.questions_left()):
            try:
                ask = partial(self._asking.answer, started.model_id, each.question)
                answer = await self._giving_way(ask, model)
            except _OF_THE_MODEL:
                raise
            except SuiteError as error:
                problem = f"{error.code}: {error.message}"
                await self._note_answer(AnswerSample(line=each.line, outcome="refused", problem=problem))
                continue
            if each.question.judge is not None:
                to_judge.append((each, answer))
            else:
                await self._note_answer(await _checked(each, answer))
        for each, answer in to_judge:
            await self._note_answer(await self._judged(started.judge, each, answer))

    async def _judged(self, judge: str, asked: NumberedQuestion, answer: Answer) -> AnswerSample:
        """What a judge says of an answer. A judge that refuses it, because it is too long, has no verdict."""
        problem = ""
        try:
            said = await self._giving_way(partial(self._asking.judgement, judge, asked.question, answer.text))
        except _OF_THE_MODEL as error:
            raise type(error)(f"the judge {judge}: {error.message}") from None
        except SuiteError as error:
            said, problem = "", f"the judge refused it: {error.message}"
        outcome = verdict(said)
        if outcome == "unclear" and not problem:
            problem = "the judge said neither PASS nor FAIL"
        return AnswerSample(
            line=asked.line, outcome=outcome, latency_ms=answer.timed.latency_ms, problem=problem
        )

    def _model(self, started: BenchmarkStarted) -> Model:
        """The model that is in memory for what is measured. Raises ModelNotFound and ModelFileGone."""
        return self._catalogue.resolve(started.model_id)

    # --- users, and all else that passes ------------------------------------------------------------------

    async def _giving_way(self, work: Callable[[], Awaitable[T]], model: Model | None = None) -> T:
        """Do work while nobody else uses this node: when somebody comes it is stopped, and done anew later.

        It is not stopped any more when that has taken too long, with what was waited: so it ends, whoever
        comes. `model`: the one on this node that it is done with; None: one that may be elsewhere, of which
        nothing is measured. Raises the errors of `_patiently`.
        """
        left = patience(self._measured, self._took)
        while True:
            began, before = self._clock(), self._measured.waited_seconds
            is_quiet, count = await self._until_quiet(model, left), self._others.count
            await self._go_on()
            done: list[T] = []
            with anyio.CancelScope() as scope:
                async with background() as tasks:
                    if is_quiet and left > 0:
                        tasks.start_soon(self._stop_for_others, scope, count, self._own_models(model))
                    done.append(await self._patiently(partial(self._timed, work)))
            if done:  # also if somebody came in the moment in which it was done
                return done[0]
            lost = self._clock() - began
            left -= lost
            interrupted = self._measured.interrupted + 1
            self._measured = replace(self._measured, interrupted=interrupted, waited_seconds=before + lost)

    async def _timed(self, work: Callable[[], Awaitable[T]]) -> T:
        began = self._clock()
        done = await work()
        self._took = self._clock() - began
        return done

    async def _stop_for_others(self, scope: anyio.CancelScope, count: int, models: Collection[str]) -> None:
        await self._others.come(count, models)
        scope.cancel()

    def _own_models(self, model: Model | None) -> Collection[str]:
        """The models that may be loaded for this benchmark while it measures with this one."""
        if model is not None:
            return (model.model_id,)
        assert self._known.started is not None, "it was started"
        return (self._catalogue.canonical(self._known.started.judge),)

    async def _until_quiet(self, model: Model | None, most: float) -> bool:
        """Wait until nobody else uses this node, `most` seconds at most. Returns whether that is so.

        If that takes long the log is told that it waits.
        """
        began, before = self._clock(), self._measured.waited_seconds
        while not self._others.are_gone_for(model):
            waited = self._clock() - began
            waits = waited >= TELL_SECONDS
            self._measured = replace(self._measured, waits=waits, waited_seconds=before + waited)
            if waited >= most:
                return False
            if waits:
                await self._tell()
            await anyio.sleep(LOOK_SECONDS)
        return True

    async def _go_on(self) -> None:
        """Have the log know that it does not wait any more."""
        self._measured = replace(self._measured, waits=False)
        if self._known.waits:
            await self._settle(self._news)

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do work, again and again while it fails for a reason that passes. Raises its other errors."""
        while True:
            began = self._clock()
            try:
                self._asking.require_service()
                return await work()
            except _PASSING as error:
                logger.debug("the benchmark %s waits: %s", self._id, error.message)
            except NotEnoughMemory as error:
                if self._clock() - began < LOAD_WAIT_MS / 1000:
                    raise  # it never fits, as things stand; else others have used the memory all the time
                logger.debug("the benchmark %s waits: %s", self._id, error.message)
            except ActorCrashed:
                self._crashes += 1
                if self._crashes >= MOST_CRASHES:
                    raise
            await anyio.sleep(RETRY_SECONDS)

    # --- the log ------------------------------------------------------------------------------------------

    async def _note_answer(self, sample: AnswerSample) -> None:
        await self._note(replace(self._measured, answers={**self._measured.answers, sample.line: sample}))

    async def _note(self, measured: Benchmark) -> None:
        """Keep what was measured, and tell the log of it now and then."""
        self._measured = measured
        await self._tell()

    async def _tell(self) -> None:
        """Tell the log what it does not know yet, if it was not told anything just before."""
        if self._clock() - self._told_at >= TELL_SECONDS and self._news(self._known):
            await self._settle(self._news)
            self._told_at = self._clock()

    async def _finish(self) -> None:
        await self._settle(self._news)
        trust_so_far = await self._patiently(self._trust_so_far)

        def end(known: Benchmark) -> tuple[Event, ...]:
            return finish(known, trust_so_far=trust_so_far, now=self._now())

        await self._settle(end)

    async def _fail(self, error: SuiteError) -> None:
        def end(known: Benchmark) -> tuple[Event, ...]:
            assert known.started is not None, "it was started"
            return (
                BenchmarkFailed(
                    benchmark_id=self._id,
                    model_id=known.started.model_id,
                    code=error.code,
                    message=error.message,
                ),
            )

        await self._settle(end)

    async def _trust_so_far(self) -> float:
        """The quality that the model is trusted with."""
        assert self._known.started is not None, "it was started"
        model_id = self._known.started.model_id
        async with self._evaluation.reading(await self._evaluation.wait_current()) as db:
            found = await evidence_of(db, [model_id])
        return quality(found.get(model_id, Evidence()))

    def _news(self, known: Benchmark) -> tuple[Event, ...]:
        event = news(known, self._measured)
        return () if event is None else (event,)

    async def _settle(self, decide: Callable[[Benchmark], tuple[Event, ...]]) -> None:
        """Append what is decided on what the log says, while the benchmark is open and this node's."""
        while self._is_own(self._known) and (events := decide(self._known)):
            try:
                self._last_seq = await self._log.append(
                    *events,
                    expect=Expectation(subject=self._aggregate, last_seq=self._last_seq),
                    correlation_id=self._id,
                )
            except (Conflict, *_PASSING) as error:
                logger.debug("the benchmark %s is not in the log yet: %s", self._id, error.message)
                await anyio.sleep(RETRY_SECONDS)
                await self._until_read()
            else:
                for event in events:
                    self._known = evolve(self._known, event)

    async def _until_read(self) -> None:
        """Read what the log says of it, as soon as it can be read."""
        while True:
            try:
                async for recorded in self._log.read(self._aggregate, after=self._last_seq):
                    self._known = evolve(self._known, recorded.data)
                    self._last_seq = recorded.seq
            except Unavailable as error:
                logger.debug("the benchmark %s cannot be read yet: %s", self._id, error.message)
                await anyio.sleep(RETRY_SECONDS)
            else:
                break
        self._measured = with_known(self._measured, self._known)


def _changed(started: BenchmarkStarted, what: str) -> Conflict:
    return Conflict(
        f"{started.model_id} has other {what} than when the benchmark was started: start another one"
    )


async def _checked(asked: NumberedQuestion, answer: Answer) -> AnswerSample:
    problem = await check(asked.question, answer.text)
    return AnswerSample(
        line=asked.line,
        outcome="passed" if problem is None else "failed",
        latency_ms=answer.timed.latency_ms,
        problem=problem or "",
    )
