"""A benchmark beside users: it stops for them, waits until they have gone, and outlasts their memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, cast

import anyio
import anyio.lowlevel
import msgspec
import pytest

from suite.domain import benchmark as domain
from suite.domain.benchmark import UNKNOWN, Timed
from suite.domain.footprint import Footprint
from suite.errors import NotEnoughMemory
from suite.messages.actions.generation import GenerateTextReply, GenerateTextRequest, Timings, Usage
from suite.messages.actor import Pooled
from suite.messages.benchmarks import NumberedQuestion, Question, RoundSample
from suite.messages.events import BenchmarkStarted
from suite.messages.subjects import Subjects
from suite.node.benchmarks import job as job_module
from suite.node.benchmarks import others as others_module
from suite.node.benchmarks.asking import LOAD_WAIT_MS, Answer, Asking
from suite.node.benchmarks.job import Job
from suite.node.benchmarks.others import MEMORY_QUIET_SECONDS, QUIET_SECONDS, Others
from suite.node.dispatcher import Dispatcher
from suite.node.generations import Generations

STARTED = BenchmarkStarted(
    benchmark_id="b",
    model_id="m",
    node="box1",
    content="abc",
    settings_key="key",
    cycle_id="c",
    streams=(2,),
    rounds=1,
    prompt_tokens=4,
    answer_tokens=2,
)
TIMED = Timed(
    prompt_tokens=4,
    completion_tokens=2,
    prompt_ms=1.0,
    first_token_ms=1.0,
    latency_ms=2.0,
    tokens_per_second=1.0,
)
REPLY = GenerateTextReply(
    text="",
    model_id="m",
    generation_id="g",
    conversation_id=None,
    using_kv_cache=False,
    finish_reason="length",
    seed=0,
    usage=Usage(prompt_tokens=1, reused_tokens=0, completion_tokens=1),
    timings=Timings(
        queue_ms=0.0, prompt_ms=1.0, time_to_first_token_ms=1.0, generation_ms=1.0, tokens_per_second=1.0
    ),
    seq=1,
)
MODEL: Any = SimpleNamespace(model_id="m")


class Box:
    """A node with one loaded model, as far as others are seen by it."""

    def __init__(self) -> None:
        self.running: dict[str, None] = {}
        self.instances = {"m": self.instance()}
        self.waiting: dict[str, object] = {}
        self.now = 100.0
        self.free = Footprint(10)

    def instance(self, phase: Literal["loading", "loaded"] = "loaded", waiting: int = 0) -> Any:
        return SimpleNamespace(instance_id="i1", leases=self.running, waiting=waiting, phase=phase)

    # As its supervisor, and the leases of that:

    on_end: Callable[[str], None]

    @property
    def leases(self) -> Box:
        return self

    @property
    def admission(self) -> Any:
        return SimpleNamespace(state=SimpleNamespace(waiting=self.waiting), free_bytes=self.free)

    def need_bytes(self, _: object) -> Footprint:
        return Footprint(5)

    def find(self, _id: str) -> None:
        return None


class Ids:
    async def let_go(self, _taken: object) -> None: ...


class Node(NamedTuple):
    box: Box
    generations: Generations
    others: Others


@asynccontextmanager
async def node() -> AsyncIterator[Node]:
    """A node on which the benchmark's generations are those with `own` in their id."""
    box = Box()
    async with anyio.create_task_group() as tasks:
        nothing = cast(Any, None)
        known = Generations("box1", cast(Any, box), nothing, tasks, lambda: box.now, ids=cast(Any, Ids()))
        others = Others(cast(Any, box), known, is_own=lambda id: id.startswith("own"), clock=lambda: box.now)
        known.on_begin = others.begins
        yield Node(box, known, others)


@asynccontextmanager
async def generating(known: Generations, id: str = "user", model_id: str = "m") -> AsyncIterator[None]:
    async with known.begun(id, model_id, conversation_id=None, client=None):
        yield


# --- who is there -------------------------------------------------------------------------------------------


async def test_others_are_those_who_generate_with_whichever_model_but_not_the_benchmark() -> None:
    async with node() as (box, known, others):
        box.running["own of a moment ago"] = None
        async with generating(known, "own"):
            assert not others.are_there()
        async with generating(known, "user", "another model"):
            assert others.are_there()
        assert not others.are_there()
        box.running["a user's"] = None
        assert others.are_there()
        assert others.count == 1, "that began while nobody watched"


async def test_others_are_also_those_who_wait_for_memory_or_load_or_want_vectors() -> None:
    async with node() as (box, known, others):
        box.instances["m"] = box.instance(waiting=1)  # vectors are computed
        assert others.are_there()
        box.instances["m"] = box.instance()
        box.waiting["large"] = None
        assert others.are_there()
        box.waiting.clear()
        box.instances["large"] = box.instance("loading")
        assert others.are_there()
        del box.instances["large"]
        assert not others.are_there()
        dispatcher = Dispatcher(cast(Any, box), cast(Any, None), known, lambda: box.now)
        terms = cast(Any, None)
        with pytest.raises(AttributeError):  # nobody computes them here
            await dispatcher.ask(MODEL, "embed", REPLY, Pooled, seconds=1.0, terms=terms, correlation_id="")
        assert others.count == 1


async def test_they_are_gone_when_nobody_was_there_for_a_moment() -> None:
    """Longer before the model is loaded in place of theirs, which they would have to load again."""
    async with node() as (box, known, others):
        assert others.are_gone_for(MODEL), "nobody was ever there"
        async with generating(known):
            assert not others.are_gone_for(MODEL)
            box.now += 100
            assert not others.are_gone_for(MODEL)
        box.now += QUIET_SECONDS - 0.1
        assert not others.are_gone_for(MODEL)
        box.now += 0.2
        assert others.are_gone_for(MODEL)
        box.instances.clear()
        assert others.are_gone_for(MODEL), "there is room for it"
        box.free = Footprint(4)
        assert not others.are_gone_for(MODEL)
        assert others.are_gone_for(None)
        box.now += MEMORY_QUIET_SECONDS
        assert others.are_gone_for(MODEL)


async def test_who_is_there_for_less_than_a_look_is_seen() -> None:
    async with node() as (box, known, others):
        async with generating(known):
            pass
        assert not others.are_gone_for(MODEL)
        box.now += QUIET_SECONDS
        assert others.are_gone_for(MODEL)


async def comes(others: Others, count: int, come: Callable[[], None]) -> None:
    """Wait for others, who come when they are waited for."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others.come, count, ["m"])
        await anyio.wait_all_tasks_blocked()
        come()


async def test_who_measures_is_told_when_somebody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with node() as (box, known, others):
        await comes(others, 0, lambda: others.begins("user"))
        await others.come(0, ["m"])  # somebody has come before it was waited
        monkeypatch.setattr(others_module, "LOOK_SECONDS", 0.001)
        await comes(others, 1, lambda: box.waiting.update(large=None))
        box.waiting.clear()
        await comes(others, 1, lambda: box.instances.update(large=box.instance("loading")))
        del box.instances["large"]
        # What the benchmark does itself is nobody else's.
        box.waiting["m"], box.instances["m"] = None, box.instance("loading")
        async with generating(known, "own"):
            with anyio.move_on_after(0.05) as waited:
                await others.come(1, ["m"])
        assert waited.cancelled_caught


# --- who measures -------------------------------------------------------------------------------------------


class Fleet:
    """Answers every request, and remembers it."""

    def __init__(self, heard: Callable[[GenerateTextRequest], None]) -> None:
        self._heard = heard

    async def ask(
        self, _node: str, _action: str, request: GenerateTextRequest, *_: object, **__: object
    ) -> object:
        self._heard(request)
        return REPLY


async def test_who_measures_goes_last_and_knows_its_generations() -> None:
    requests: list[GenerateTextRequest] = []
    async with node() as (_, known, _):
        asking = Asking(
            "box1",
            connection=cast(Any, None),
            subjects=Subjects(),
            fleet=cast(Any, Fleet(requests.append)),
            generations=known,
            new_id=lambda: "g",
        )
        await asking.timed("m", (1, 2), 2)
        await asking.timed("m", (1, 2), 2)
    assert all(each.priority < 0 and asking.is_own(each.generation_id or "") for each in requests)
    assert len({each.generation_id for each in requests}) == 2
    assert not asking.is_own("a user's") and not asking.is_own("")


class Company:
    """Others who come in the middle of what is measured, so many times, and go; or who stay for ever."""

    def __init__(self, *, visits: int = 0, stays: bool = False) -> None:
        self.visits = visits
        self.count = 0
        self.waited: list[object] = []
        """For which models it was waited that they are gone."""
        self._stays = stays

    def are_there(self) -> bool:
        return self._stays

    def are_gone_for(self, model: object) -> bool:
        self.waited.append(model)
        return not self._stays

    async def come(self, _: int, besides: Collection[str]) -> None:
        assert besides == ("m",)
        if not self.visits:
            await anyio.sleep_forever()
        self.visits -= 1
        await anyio.wait_all_tasks_blocked()  # until the answers are being generated


class Scripted:
    """Asks a model that is in these instances one after the other: at each look it is in the next one."""

    def __init__(
        self, instances: Sequence[str] = (), *, endless: int = 0, beside: Company | None = None
    ) -> None:
        """`endless`: so many rounds or answers never end by themselves, the first ones. `beside`: of these
        somebody begins something while an answer is generated.
        """
        self._instances = iter(instances)
        self._beside = beside
        self.endless = endless
        self.rounds = 0
        self.answers = 0
        self.running = 0

    def require_service(self) -> None: ...

    def instance_of(self, model_id: str) -> str:
        assert model_id == "m"
        return next(self._instances, "i1")

    async def speed_tokens(self, *_: object, stream: int, **__: object) -> tuple[int, ...]:
        self.rounds += not stream
        return (1, 2, 3, 4)

    async def timed(self, *_: object) -> Timed:
        await self._generate()
        return TIMED

    async def answer(self, *_: object) -> Answer:
        self.answers += 1
        await self._generate()
        return Answer("yes", TIMED)

    async def _generate(self) -> None:
        self.running += 1
        try:
            await anyio.lowlevel.checkpoint()
            if self._beside is not None:
                self._beside.count += 1
            if self.rounds + self.answers <= self.endless:
                await anyio.sleep_forever()
        finally:
            self.running -= 1


def job(asking: object, others: object = None, clock: Callable[[], float] = lambda: 0.0) -> Job:
    nothing = cast(Any, None)
    catalogue = SimpleNamespace(resolve=lambda name: SimpleNamespace(model_id=name))
    return Job(
        "b",
        node="box1",
        asking=cast(Asking, asking),
        others=cast(Others, others or Company()),
        log=nothing,
        subjects=Subjects(),
        catalogue=cast(Any, catalogue),
        versions=nothing,
        evaluation=nothing,
        now=nothing,
        clock=clock,
    )


def started(of: Job, started: BenchmarkStarted = STARTED) -> Job:
    """A job that knows what it is to measure, and tells nobody."""
    of._known = of._measured = msgspec.structs.replace(UNKNOWN, started=started)
    of._told_at = 0.0
    return of


async def measured(
    asking: Scripted, monkeypatch: pytest.MonkeyPatch, others: Company | None = None
) -> RoundSample:
    monkeypatch.setattr(job_module, "RETRY_SECONDS", 0.0)
    of = started(job(asking, others))
    return await of._patiently(lambda: of._round(STARTED, 2, 0))


async def test_a_round_beside_others_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not (await measured(Scripted(), monkeypatch)).disturbed
    assert (await measured(Scripted(), monkeypatch, Company(stays=True))).disturbed
    begin = Company()
    assert (await measured(Scripted(beside=begin), monkeypatch, begin)).disturbed


async def test_a_round_is_measured_again_if_the_model_made_way_in_the_middle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the time of a load would count as that of its answers, which were not beside each other."""
    asking = Scripted(["i1", "i2", "i2", "i2"])
    await measured(asking, monkeypatch)
    assert asking.rounds == 2


async def test_a_round_stops_when_somebody_comes_and_is_measured_again() -> None:
    others = Company(visits=3)
    asking = Scripted(endless=3)
    of = started(job(asking, others))
    sample = await of._giving_way(lambda: of._round(STARTED, 2, 0), MODEL)
    assert (asking.rounds, asking.running, others.visits) == (4, 0, 0)
    assert not sample.disturbed
    assert of._measured.interrupted == 3
    assert others.waited == [MODEL] * 4, "each begins when nobody is there"


async def test_an_answer_that_is_there_is_kept_though_the_next_one_is_interrupted() -> None:
    set_of_two = tuple(
        NumberedQuestion(line=line, question=Question(prompt="x", exact="yes")) for line in (1, 2)
    )
    others = Company()
    asking = Scripted()
    of = started(job(asking, others), msgspec.structs.replace(STARTED, questions=set_of_two))
    noted: list[int] = []

    async def note(sample: Any) -> None:
        await anyio.lowlevel.checkpoint()
        noted.append(sample.line)
        if sample.line == 1:  # somebody comes while the second one is answered
            others.visits, asking.endless = 1, 2

    of._note_answer = note  # type: ignore[method-assign]
    await of._ask_questions(of._known.started or STARTED)
    assert noted == [1, 2]
    assert (asking.answers, of._measured.interrupted) == (3, 1)


async def test_what_somebody_comes_too_late_for_counts() -> None:
    """Who comes in the moment in which an answer is complete does not have it thrown away."""
    of = started(job(Scripted()))

    class AtTheEnd(Company):
        async def come(self, *_: object) -> None:
            await over.wait()

    of._others = cast(Others, AtTheEnd())
    over = anyio.Event()

    async def work() -> str:
        await anyio.lowlevel.checkpoint()
        over.set()
        return "done"

    assert await of._giving_way(work, MODEL) == "done"
    assert of._measured.interrupted == 0


async def test_users_who_never_leave_are_waited_for_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then it is measured beside them, and not interrupted any more."""
    monkeypatch.setattr(job_module, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(domain, "LEAST_PATIENCE_SECONDS", 3.0)
    monkeypatch.setattr(domain, "PATIENCE_SECONDS", 5.0)
    others, now = Company(stays=True, visits=1), [0.0]

    def clock() -> float:
        now[0] += 0.25
        return now[0]

    async def tell() -> None:
        await anyio.lowlevel.checkpoint()
        told.append(of._measured.waits)

    told: list[bool] = []
    of = started(job(Scripted(), others, clock))
    of._tell = tell  # type: ignore[method-assign]
    sample = await of._giving_way(lambda: of._round(STARTED, 2, 0), MODEL)
    assert sample.disturbed and others.visits == 1
    assert told and all(told), "after a moment it is told that it waits"
    assert not of._measured.waits
    assert of._measured.waited_seconds == pytest.approx(5.0, abs=0.5)
    before = of._measured.waited_seconds
    await of._giving_way(lambda: of._round(STARTED, 2, 0), MODEL)
    assert of._measured.waited_seconds - before >= 3.0, "the next one waits as well"
    assert of._measured.interrupted == 0


async def test_users_who_always_come_back_interrupt_it_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each time it begins nobody is there; what is lost then counts as if it had waited."""
    monkeypatch.setattr(domain, "PATIENCE_SECONDS", 5.0)
    monkeypatch.setattr(domain, "LEAST_PATIENCE_SECONDS", 3.0)
    others, now = Company(visits=1_000), [0.0]

    def clock() -> float:
        now[0] += 0.25
        return now[0]

    async def work() -> str:
        for _ in range(4):  # somebody comes before it is over
            await anyio.wait_all_tasks_blocked()
        return "done"

    of = started(job(Scripted(), others, clock))
    assert await of._giving_way(work, MODEL) == "done"
    first = of._measured.interrupted
    assert 0 < first < 1_000
    assert of._measured.waited_seconds == pytest.approx(5.0, abs=1.0)
    assert await of._giving_way(work, MODEL) == "done"
    assert 0 < of._measured.interrupted - first < first, "the next one gives way as well, for less long"


async def test_memory_that_others_use_for_long_ends_no_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """But a model that cannot fit does, which is said at once."""
    monkeypatch.setattr(job_module, "RETRY_SECONDS", 0.0)
    now = [0.0]

    async def wait_in_vain() -> str:
        if now[0]:
            return "loaded"
        now[0] += LOAD_WAIT_MS / 1000
        raise NotEnoughMemory("others use it")

    waiting = job(Scripted(), clock=lambda: now[0])
    assert await waiting._patiently(wait_in_vain) == "loaded"

    async def never_fit() -> str:
        raise NotEnoughMemory("it is too large")

    with pytest.raises(NotEnoughMemory, match="too large"):
        await waiting._patiently(never_fit)
