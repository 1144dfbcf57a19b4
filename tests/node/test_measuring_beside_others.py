"""A benchmark beside users: it lets them go first, says that they were there, and outlasts their memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from suite.domain.benchmark import Timed
from suite.errors import NotEnoughMemory
from suite.messages.actions.generation import GenerateTextReply, GenerateTextRequest, Timings, Usage
from suite.messages.benchmarks import RoundSample
from suite.messages.events import BenchmarkStarted
from suite.messages.subjects import Subjects
from suite.node.benchmarks import asking as asking_module
from suite.node.benchmarks import job as job_module
from suite.node.benchmarks.asking import LOAD_WAIT_MS, Asking
from suite.node.benchmarks.job import Job
from suite.node.generations import Generations, OtherGenerations

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


class Supervisor:
    """Has one instance, with these generations."""

    def __init__(self, *running: str) -> None:
        self.instances = {"m": SimpleNamespace(instance_id="i1", leases=dict.fromkeys(running))}
        self.leases = self
        self.on_end: Callable[[str], None]

    def find(self, _id: str) -> None:
        return None


class Ids:
    async def let_go(self, _taken: object) -> None: ...


@asynccontextmanager
async def generations(*running: str) -> AsyncIterator[Generations]:
    async with anyio.create_task_group() as tasks:
        yield Generations(
            "box1",
            cast(Any, Supervisor(*running)),
            cast(Any, None),
            tasks,
            lambda: 0.0,
            ids=cast(Any, Ids()),
        )


async def test_others_are_those_that_run_wait_or_begin_but_not_the_own_ones() -> None:
    async with generations("running", "own") as known:
        with known.others({"own", "own too"}) as others:
            assert others.count == 1
            for id in ("own too", "late"):
                async with known.begun(id, "m", conversation_id=None, client=None):
                    pass
            assert others.count == 2
        async with known.begun("afterwards", "m", conversation_id=None, client=None):
            assert others.count == 2
            with known.others(()) as found:
                assert found.count == 3


class Fleet:
    """Answers every request, and remembers it."""

    def __init__(self, heard: Callable[[GenerateTextRequest], None]) -> None:
        self._heard = heard

    async def ask(
        self, _node: str, _action: str, request: GenerateTextRequest, *_: object, **__: object
    ) -> object:
        self._heard(request)
        return REPLY


def asks(known: Generations, heard: Callable[[GenerateTextRequest], None] = lambda _: None) -> Asking:
    return Asking(
        "box1",
        connection=cast(Any, None),
        subjects=Subjects(),
        fleet=cast(Any, Fleet(heard)),
        generations=known,
        new_id=lambda: "g",
    )


async def test_who_measures_goes_last_and_counts_no_generation_of_its_own() -> None:
    async with generations() as known:

        def heard(request: GenerateTextRequest) -> None:
            assert request.priority < 0
            known._pending["g"] = cast(Any, None)  # as the node does before it answers
            with asking.others() as others:
                counts.append(others.count)
            del known._pending["g"]

        counts: list[int] = []
        asking = asks(known, heard)
        await asking.timed("m", (1, 2), 2)
        assert counts == [0]


async def test_a_quiet_moment_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async with generations() as known:
        asking = asks(known)
        await asking.quiet()  # nobody is there
        began = anyio.Event()

        async def wait() -> None:
            began.set()
            await asking.quiet()
            ended.append("quiet")

        ended: list[str] = []
        async with anyio.create_task_group() as tasks:
            async with known.begun("other", "m", conversation_id=None, client=None):
                tasks.start_soon(wait)
                await began.wait()
                await anyio.sleep(0.1)
                assert not ended
                ended.append("other")
        assert ended == ["other", "quiet"]
        monkeypatch.setattr(asking_module, "QUIET_SECONDS", 0.01)
        async with known.begun("another", "m", conversation_id=None, client=None):
            await asking.quiet()


# --- the job ------------------------------------------------------------------------------------------------


class Scripted:
    """Asks a model that is in these instances one after the other: at each look it is in the next one."""

    def __init__(self, instances: Sequence[str], *, others: int = 0) -> None:
        self._instances = iter(instances)
        self._others = others
        self.rounds = 0

    def require_service(self) -> None: ...

    async def quiet(self) -> None: ...

    def instance_of(self, model_id: str) -> str:
        assert model_id == "m"
        return next(self._instances)

    @contextmanager
    def others(self) -> Iterator[OtherGenerations]:
        found = OtherGenerations((), ())
        yield found
        found.count = self._others

    async def speed_tokens(self, *_: object, stream: int, **__: object) -> tuple[int, ...]:
        self.rounds += not stream
        return (1, 2, 3, 4)

    async def timed(self, *_: object) -> Timed:
        return TIMED


def job(asking: object, clock: Callable[[], float] = lambda: 0.0) -> Job:
    nothing = cast(Any, None)
    catalogue = SimpleNamespace(resolve=lambda name: SimpleNamespace(model_id=name))
    return Job(
        "b",
        node="box1",
        asking=cast(Asking, asking),
        log=nothing,
        subjects=Subjects(),
        catalogue=cast(Any, catalogue),
        versions=nothing,
        evaluation=nothing,
        now=nothing,
        clock=clock,
    )


async def measured(asking: Scripted, monkeypatch: pytest.MonkeyPatch) -> RoundSample:
    monkeypatch.setattr(job_module, "RETRY_SECONDS", 0.0)
    of = job(asking)
    return await of._patiently(lambda: of._round(STARTED, 2, 0))


async def test_a_round_in_which_others_generated_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not (await measured(Scripted(["i1", "i1"]), monkeypatch)).disturbed
    assert (await measured(Scripted(["i1", "i1"], others=1), monkeypatch)).disturbed


async def test_a_round_is_measured_again_if_the_model_made_way_in_the_middle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the time of a load would count as that of its answers, which were not beside each other."""
    asking = Scripted(["i1", "i2", "i2", "i2"])
    await measured(asking, monkeypatch)
    assert asking.rounds == 2


async def test_memory_that_others_use_for_long_ends_no_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """But a model that cannot fit does, which is said at once."""
    monkeypatch.setattr(job_module, "RETRY_SECONDS", 0.0)
    now = [0.0]

    async def wait_in_vain() -> str:
        if now[0]:
            return "loaded"
        now[0] += LOAD_WAIT_MS / 1000
        raise NotEnoughMemory("others use it")

    waiting = job(Scripted([]), lambda: now[0])
    assert await waiting._patiently(wait_in_vain) == "loaded"

    async def never_fit() -> str:
        raise NotEnoughMemory("it is too large")

    with pytest.raises(NotEnoughMemory, match="too large"):
        await waiting._patiently(never_fit)
