"""A benchmark is of the model, whatever happens on the way: what is cut short is asked for again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import anyio
import anyio.lowlevel
import msgspec
import pytest

from suite.actions.benchmark import run_benchmark
from suite.errors import GenerationNotFound, NoService, RequestTimeout, SuiteError, UnknownOutcome
from suite.identity import boot_clock, utc_now
from suite.log import Log
from suite.messages.actions.benchmark import RunBenchmarkRequest
from suite.messages.actions.generation import GenerateTextReply, GenerateTextRequest, Timings, Usage
from suite.messages.actions.residency import LoadModelReply
from suite.messages.benchmarks import NumberedQuestion, Question
from suite.messages.events import BenchmarkFinished, BenchmarkMoved, BenchmarkStarted, Event
from suite.messages.subjects import Subjects
from suite.node.benchmarks import job as jobs
from suite.node.benchmarks.asking import Asking
from suite.node.benchmarks.job import Job
from suite.node.benchmarks.others import Others
from suite.node.benchmarks.takeover import Takeover
from suite.projections.evaluation import EvaluationProjection
from suite.projections.projector import Projector
from support.faults import KillableServer
from support.journal import SUBJECTS, open_log
from support.projections import projecting

LOADED = LoadModelReply(
    model_id="tiny", loaded=True, message="", seq=1, load_ms=1.0, resident_bytes=1, status="success"
)
QUESTIONS = (
    NumberedQuestion(line=1, question=Question(prompt="Say yes.", exact="yes")),
    NumberedQuestion(line=2, question=Question(prompt="Is water wet?", judge="It says yes.")),
)
STARTED = BenchmarkStarted(
    benchmark_id="b",
    model_id="tiny",
    node="box1",
    content="c",
    settings_key="k",
    cycle_id="cycle",
    streams=(),
    rounds=1,
    prompt_tokens=1,
    answer_tokens=1,
    questions=QUESTIONS,
    set_sha256="s",
    judge="judge",
)


def said(text: str, *, was_cut: bool = False) -> GenerateTextReply:
    return GenerateTextReply(
        status="success",
        text=text,
        model_id="tiny",
        generation_id="g",
        conversation_id=None,
        using_kv_cache=False,
        finish_reason="cancelled" if was_cut else "stop",
        seed=0,
        usage=Usage(prompt_tokens=1, reused_tokens=0, completion_tokens=1),
        timings=Timings(
            queue_ms=0.0, prompt_ms=1.0, time_to_first_token_ms=1.0, generation_ms=1.0, tokens_per_second=1.0
        ),
        seq=1,
    )


class Models:
    """The model that is measured, and the one that judges: each says what it is given."""

    def __init__(self, answers: list[str | SuiteError], verdicts: list[GenerateTextReply]) -> None:
        self._answers, self._verdicts = iter(answers), iter(verdicts)
        self.own = SimpleNamespace(is_draining=False)
        self.asked: list[str | None] = []
        self.cancelled: list[str] = []

    async def ask(self, _node: str, action: str, request: object, *_: object, **__: object) -> object:
        await anyio.lowlevel.checkpoint()
        if action == "load_model":
            return LOADED
        assert isinstance(request, GenerateTextRequest)
        self.asked.append(request.generation_id)
        answer = next(self._answers)
        if isinstance(answer, SuiteError):
            raise answer
        return said(answer)

    async def request(self, *_: object, **__: object) -> object:
        await anyio.lowlevel.checkpoint()
        return SimpleNamespace(data=msgspec.json.encode(next(self._verdicts)))

    async def cancel(self, generation_id: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.cancelled.append(generation_id)
        raise NoService("the model's process has ended")


class Nobody:
    """Nobody else uses the node."""

    count = 0

    def are_gone_for(self, _: object) -> bool:
        return True

    async def come(self, *_: object) -> None:
        await anyio.sleep_forever()


def job_of(models: Models, log: Log, evaluation: Projector) -> Job:
    async def digest(_: str) -> str:
        await anyio.lowlevel.checkpoint()
        return "c"

    model = SimpleNamespace(model_id="tiny", settings_key="k")
    catalogue = SimpleNamespace(resolve=lambda _: model, digest=digest, canonical=str)
    ids = count()
    return Job(
        "b",
        node="box1",
        asking=Asking(
            "box1",
            connection=cast(Any, models),
            subjects=Subjects(),
            fleet=cast(Any, models),
            generations=cast(Any, models),
            new_id=lambda: f"g{next(ids)}",
        ),
        others=cast(Others, Nobody()),
        log=log,
        subjects=SUBJECTS,
        catalogue=cast(Any, catalogue),
        versions=cast(Any, SimpleNamespace(reach=lambda _: anyio.lowlevel.checkpoint())),
        evaluation=evaluation,
        now=utc_now,
        clock=boot_clock,
    )


async def test_an_answer_or_a_verdict_that_is_cut_short_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that did not come in time is not left to be computed beside the next one."""
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.0)
    late = RequestTimeout("no answer within 1200 s")
    models = Models([late, "yes", "It is."], [said("", was_cut=True), said("PASS")])
    async with (
        KillableServer.start(tmp_path) as server,
        open_log(server.access) as (_, log),
        projecting(log, tmp_path / "evaluation.db", EvaluationProjection()) as evaluation,
    ):
        await log.append(STARTED)
        await job_of(models, log, evaluation).run()
        (finished,) = [each.data async for each in log.read() if isinstance(each.data, BenchmarkFinished)]
    quality = finished.result.quality
    assert quality is not None
    assert (quality.passed, quality.refused, quality.unclear) == (2, 0, 0)
    assert models.asked == [f"benchmark-g0-{number}" for number in (1, 2, 3)]
    assert models.cancelled == models.asked[:1]


class Starting:
    """A node that is asked for a benchmark, with a log that takes its time."""

    name = "box1"

    def __init__(self, end: Callable[[], int]) -> None:
        self.is_appending, self.go_on = anyio.Event(), anyio.Event()
        self._end = end
        self.subjects, self.new_id, self.now = SUBJECTS, lambda: "b", utc_now
        self.log = self
        self.fleet = SimpleNamespace(meant=lambda name: name)
        self.catalogue = SimpleNamespace(digest=self._digest)
        self.names = SimpleNamespace(settled_number=self._number)
        self.run: list[str] = []
        self.benchmarks = SimpleNamespace(require_room=lambda: None, add=self.run.append)

    async def loadable(self, _: str) -> object:
        await anyio.lowlevel.checkpoint()
        return SimpleNamespace(model_id="tiny", info=None, context_tokens=512, settings_key="k")

    async def _digest(self, _: str) -> str:
        await anyio.lowlevel.checkpoint()
        return "c"

    async def _number(self, *_: object) -> int:
        await anyio.lowlevel.checkpoint()
        return 1

    async def last_seq(self, _: str) -> int:
        await anyio.lowlevel.checkpoint()
        return 0

    async def read(self, *_: object, **__: object) -> Any:
        events: tuple[object, ...] = ()
        for each in events:
            yield each

    async def last(self, _: str) -> None:
        await anyio.lowlevel.checkpoint()

    async def append(self, *_: object, **__: object) -> int:
        self.is_appending.set()
        await self.go_on.wait()
        return self._end()


def _unknown() -> int:
    raise UnknownOutcome("the connection was lost")


@pytest.mark.parametrize("end", [lambda: 1, _unknown])
async def test_a_benchmark_that_the_log_has_is_run_though_nobody_waits_for_it(
    end: Callable[[], int],
) -> None:
    node = Starting(end)
    call = cast(Any, SimpleNamespace(client=None, request_id="r"))
    async with anyio.create_task_group() as tasks:

        async def start() -> None:
            with suppress(UnknownOutcome):
                await run_benchmark(cast(Any, node), RunBenchmarkRequest(model_id="tiny", wait=False), call)

        tasks.start_soon(start)
        await node.is_appending.wait()
        tasks.cancel_scope.cancel()
        node.go_on.set()
    assert node.run == ["b"]


async def test_a_generation_that_is_cut_before_the_node_knows_it_is_cancelled_all_the_same() -> None:
    """Else it would be computed beside whoever it was cut for."""

    class Late(Models):
        async def cancel(self, generation_id: str) -> None:
            await anyio.lowlevel.checkpoint()
            self.cancelled.append(generation_id)
            if len(self.cancelled) < 3:
                raise GenerationNotFound

        async def ask(self, *_: object, **__: object) -> NoReturn:
            asked.set()
            await anyio.sleep_forever()
            raise AssertionError("it is cancelled")

    asked, models = anyio.Event(), Late([], [])
    asking = Asking(
        "box1",
        connection=cast(Any, models),
        subjects=Subjects(),
        fleet=cast(Any, models),
        generations=cast(Any, models),
        new_id=lambda: "g",
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(asking.timed, "tiny", (1, 2), 2)
        await asked.wait()
        tasks.cancel_scope.cancel()
    assert models.cancelled == ["benchmark-g-1"] * 3


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_benchmark_that_may_have_been_taken_over_is_run_if_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    """The log's answer is lost: if it has the takeover, no other node goes on with the benchmark."""
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.0)
    started = msgspec.structs.replace(STARTED, node="box0", questions=(), judge="", may_move=True)
    added: list[str] = []
    async with (
        KillableServer.start(tmp_path) as server,
        open_log(server.access) as (_, log),
        projecting(log, tmp_path / "evaluation.db", EvaluationProjection()) as evaluation,
    ):
        await log.append(started)
        append = log.append

        async def unanswered(*events: Event, **more: Any) -> int:
            if is_stored:
                await append(*events, **more)
            raise UnknownOutcome("the connection was lost")

        monkeypatch.setattr(log, "append", unanswered)
        job = job_of(Models([], []), log, evaluation)
        benchmarks = SimpleNamespace(require_room=lambda: None, add=added.append)
        node = SimpleNamespace(
            name="box1", log=log, subjects=SUBJECTS, catalogue=job._catalogue, benchmarks=benchmarks
        )
        with pytest.raises(UnknownOutcome):
            await Takeover(cast(Any, node))._take("b", "box0")
        monkeypatch.setattr(log, "append", append)
        assert added == ["b"]
        await job.run()
        told = [type(each.data) async for each in log.read(SUBJECTS.aggregate("benchmark", "b"))]
    assert (BenchmarkMoved in told, BenchmarkFinished in told) == (is_stored, is_stored)
