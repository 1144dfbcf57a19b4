"""Benchmarks: what they measure, how broken sets and bad judges count, and that they survive their node."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import TypedDict

import anyio
import msgspec
import pytest
from anyio.from_thread import start_blocking_portal

import suite
from suite.errors import (
    BenchmarkNotFound,
    Cancelled,
    Conflict,
    InvalidRequest,
    ModelNotFound,
    NoChatTemplate,
    TooLarge,
)
from suite.messages.benchmarks import SET_BYTES, BenchmarkResult, Mean
from suite.messages.envelope import Recorded
from suite.messages.events import BenchmarkProgressed, Generated
from suite.messages.signals import Benchmarking
from support.command import Command
from support.judge import WRONG, tiny_judge
from support.models import CHAT_TEMPLATE, slow_model, tiny_model
from support.service import facts, history, service_and_client, serving


class Options(TypedDict):
    """What of a speed test differs from the defaults."""

    streams: tuple[int, ...]
    rounds: int
    prompt_tokens: int
    answer_tokens: int


SMALL: Options = {"streams": (1, 2), "rounds": 2, "prompt_tokens": 16, "answer_tokens": 8}
GOOD: dict[str, object] = {"prompt": "Say anything.", "pattern": ".", "max_tokens": 8}
BAD: dict[str, object] = {
    "prompt": "Say something else.",
    "exact": "what no such model says",
    "max_tokens": 8,
}


def lines(*questions: dict[str, object] | str) -> str:
    return "\n".join(each if isinstance(each, str) else json.dumps(each) for each in questions)


def surrounds(value: Mean) -> bool:
    return value.low is not None and value.high is not None and value.low <= value.mean <= value.high


def progressed(events: Iterable[Recorded]) -> list[BenchmarkProgressed]:
    return [each.data for each in events if isinstance(each.data, BenchmarkProgressed)]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a service that goes on from test to test, since each start costs seconds."""
    directory = tmp_path_factory.mktemp("benchmarks")
    models = directory / "models"
    models.mkdir()
    tiny_model(models / "tiny.gguf", chat_template=CHAT_TEMPLATE)
    tiny_model(models / "plain.gguf")
    tiny_judge(models / "judge.gguf")
    slow_model(models / "slow.gguf", chat_template=CHAT_TEMPLATE)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(models, directory / "suite")),
    ):
        yield directory / "suite"


async def test_the_result_is_an_evaluation_with_intervals_that_compare_shows(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        progress: list[Benchmarking] = []
        questions = lines(GOOD, BAD, "", "{broken", {"prompt": "x"}, {"prompt": "x", "pattern": "("})
        reply = await client.run_benchmark("tiny", set_jsonl=questions, on_progress=progress.append, **SMALL)

        assert (reply.state, reply.model_id) == ("finished", "tiny")
        assert [each.line for each in reply.broken_lines] == [4, 5, 6]
        assert "pattern" in reply.broken_lines[2].problem
        result = reply.result
        assert result is not None and result.load is not None and result.load.resident_bytes > 0
        assert [each.streams for each in result.speed] == [1, 2]
        assert result.disturbed_rounds == 0, "nobody else is here"
        for speed in result.speed:
            assert speed.tokens_per_second is not None and speed.first_token_ms.samples == 2
            for value in (speed.first_token_ms, speed.latency_ms, speed.tokens_per_second):
                assert surrounds(value) and value.mean > 0
        quality = result.quality
        assert quality is not None and quality.accuracy is not None and quality.broken_lines == 3
        assert (quality.passed, quality.failed, quality.accuracy.share) == (1, 1, 0.5)
        assert quality.accuracy.low < 0.5 < quality.accuracy.high
        assert progress and progress[-1].total == 6

        (evaluation,) = (
            await client.get_model_evaluation_scores(model_name="tiny", min_seq=reply.seq)
        ).evaluations
        assert evaluation.evaluation_id == reply.evaluation_id
        assert (evaluation.accuracy, evaluation.trust_score, evaluation.version) == (0.5, 0.5, 1)
        stored = json.loads(evaluation.comparison_data or "")["result"]
        assert msgspec.convert(stored, BenchmarkResult) == result
        (compared,) = (await client.compare_models(["tiny"], min_seq=reply.seq)).models
        assert compared.benchmark == result
        (listed,) = (await client.get_benchmarks("tiny", min_seq=reply.seq)).benchmarks
        assert (listed.state, listed.result, listed.done, listed.total) == ("finished", result, 6, 6)

        # A retracted evaluation takes its benchmark along.
        retracted = await client.retract_model_evaluation(evaluation.evaluation_id)
        (compared,) = (await client.compare_models(["tiny"], min_seq=retracted.seq)).models
        assert compared.benchmark is None


async def test_one_id_is_one_benchmark(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        first = await client.run_benchmark("tiny", benchmark_id="same", **SMALL)
        assert await client.run_benchmark("tiny", benchmark_id="same", **SMALL) == first
        with pytest.raises(Conflict, match=r"differs in streams, rounds: .*`suite bench --id same`"):
            await client.run_benchmark(
                "tiny", benchmark_id="same", **(SMALL | {"rounds": 3, "streams": (1,)})
            )
        facts = Counter(each.data.fact for each in await history(client, "benchmark.same"))
        assert (facts["started"], facts["finished"]) == (1, 1)


async def test_a_benchmark_is_followed_by_its_id_whatever_it_measures(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        begun = await client.run_benchmark("slow", benchmark_id="long", wait=False, **SMALL)
        shown = await client.follow_benchmark("long", wait=False)
        assert (shown.model_id, shown.runs_on) == ("slow", begun.runs_on)
        progress: list[Benchmarking] = []
        ended = await client.follow_benchmark("long", model_id="slow", on_progress=progress.append)
        assert ended.state == "finished" and ended.result is not None and progress
        assert await client.follow_benchmark("long") == ended
        with pytest.raises(Conflict, match="'long' is a benchmark of slow, not of tiny"):
            await client.follow_benchmark("long", model_id="tiny")
        with pytest.raises(BenchmarkNotFound):
            await client.follow_benchmark("no-such-benchmark")


async def test_suite_bench_with_an_id_shows_what_was_started_before(data_dir: Path) -> None:
    command = Command(data_dir)
    small = ("--streams", "1", "--rounds", "1", "--prompt-tokens", "16", "--answer-tokens", "4")
    begun = await command.output("bench", "tiny", *small, "--id", "mine", "--no-wait")
    assert begun.rstrip().endswith("`suite bench --id=mine` follows it")
    first = await command.output("bench", "tiny", *small, "--id", "mine")
    assert first.startswith("tiny on ")
    for again in (("--id", "mine"), ("tiny", "--id", "mine", "--no-wait"), ("tiny", *small, "--id", "mine")):
        assert await command.output("bench", *again) == first
    refused = await command.refusal("bench", "tiny", *small, "--rounds", "2", "--id", "mine")
    assert refused.startswith(
        "error conflict: 'mine' is the id of another benchmark, which differs in rounds"
    )
    assert (await command.refusal("bench", "--id", "nobody")).startswith("error benchmark_not_found: ")
    assert (await command.run("bench", "--id", "mine", "--rounds", "2")).returncode == 2
    assert (await command.run("bench")).returncode == 2


async def test_a_judge_passes_and_fails_answers(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        judged: dict[str, object] = {"judge": "It is right.", "max_tokens": 4}
        prompts = ("Is water wet?", f"Is fire {WRONG}?", "Is ice cold?")
        questions = lines(*[judged | {"prompt": prompt} for prompt in prompts])
        reply = await client.run_benchmark("tiny", set_jsonl=questions, judge="judge", streams=())
        assert reply.result is not None and reply.result.quality is not None
        quality = reply.result.quality
        assert (quality.passed, quality.failed, quality.unclear, quality.refused) == (2, 1, 0, 0)
        noted = await history(client, f"benchmark.{reply.benchmark_id}.progressed")
        outcomes = {answer.line: answer.outcome for each in progressed(noted) for answer in each.answers}
        assert outcomes == {1: "passed", 2: "failed", 3: "passed"}
        evaluations = (await client.get_model_evaluation_scores(min_seq=reply.seq)).evaluations
        (evaluation,) = [each for each in evaluations if each.evaluation_id == reply.evaluation_id]
        assert evaluation.accuracy == pytest.approx(2 / 3)
        assert json.loads(evaluation.comparison_data or "")["judge"] == "judge"


async def test_a_benchmark_stops_when_a_user_comes_and_measures_again_when_they_have_gone(
    data_dir: Path,
) -> None:
    asked: Options = {"streams": (1,), "rounds": 1, "prompt_tokens": 16, "answer_tokens": 100}
    async with suite.connect(data_dir=data_dir) as client, anyio.create_task_group() as users:

        async def generates() -> bool:
            return any(each.client == "benchmark" for each in (await client.get_model_status()).generations)

        async def waits() -> bool:
            return (await client.get_benchmarks("slow")).benchmarks[0].waits

        async def use() -> None:
            while True:
                await client.generate_text("tiny", "Hello", max_tokens=8)

        began = await client.run_benchmark("slow", wait=False, **asked)
        await eventually(generates)
        users.start_soon(use)
        await eventually(waits)
        uses = [each.data for each in await history(client, "usage.slow.generated")]
        cut = [each for each in uses if isinstance(each, Generated) and each.outcome == "cancelled"]
        assert [each.requester for each in cut] == ["benchmark"] and cut[0].completion_tokens < 100
        assert not await generates(), "it leaves the cores to the users of the other model"
        users.cancel_scope.cancel()
    async with suite.connect(data_dir=data_dir) as client:
        ended = await client.follow_benchmark(began.benchmark_id)
        (listed,) = (await client.get_benchmarks("slow", limit=1, min_seq=ended.seq)).benchmarks
    assert ended.result is not None and not listed.waits
    assert (ended.result.interrupted, ended.result.disturbed_rounds) == (1, 0)
    assert ended.result.waited_seconds > 0 and ended.result.speed[0].first_token_ms.samples == 1


async def eventually(happens: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(30):
        while not await happens():
            await anyio.sleep(0.02)


async def test_a_judge_that_answers_nonsense_counts_apart(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        judged: dict[str, object] = {"prompt": "Is water wet?", "judge": "It says yes.", "max_tokens": 4}
        too_long: dict[str, object] = {"prompt": "many " * 600, "contains": "x"}
        questions = lines(GOOD, judged, judged | {"prompt": "Is it?"}, too_long)
        reply = await client.run_benchmark("tiny", set_jsonl=questions, judge="tiny", streams=())
        assert reply.result is not None and reply.result.speed == ()
        quality = reply.result.quality
        assert quality is not None and quality.accuracy is not None
        assert (quality.passed, quality.failed, quality.unclear, quality.refused) == (1, 0, 2, 1)
        assert quality.accuracy.samples == 1
        noted = await history(client, f"benchmark.{reply.benchmark_id}.progressed")
        answers = [
            answer
            for each in noted
            if isinstance(each.data, BenchmarkProgressed)
            for answer in each.data.answers
        ]
        assert any("prompt_too_long" in each.problem for each in answers)


async def test_what_cannot_be_measured_is_refused_with_what_to_do(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        with pytest.raises(InvalidRequest, match="line 1: "):
            await client.run_benchmark("tiny", set_jsonl="nothing\nat all")
        with pytest.raises(InvalidRequest, match="empty"):
            await client.run_benchmark("tiny", set_jsonl="\n")
        for size in (SET_BYTES + 1, 8 * SET_BYTES):  # the second is larger than a message
            with pytest.raises(TooLarge, match=rf"has {size:,} bytes, and 256 KiB \(262,144 bytes\) is"):
                await client.run_benchmark("tiny", set_jsonl=" " * size)
        judged = lines({"prompt": "x", "judge": "y"})
        with pytest.raises(InvalidRequest, match="judge"):
            await client.run_benchmark("tiny", set_jsonl=judged)
        with pytest.raises(ModelNotFound, match="nobody"):
            await client.run_benchmark("tiny", set_jsonl=judged, judge="nobody")
        with pytest.raises(NoChatTemplate, match="plain cannot judge, as it has no chat template"):
            await client.run_benchmark("tiny", set_jsonl=judged, judge="plain")
        with pytest.raises(NoChatTemplate, match="plain has no chat template, and a set asks by chats"):
            await client.run_benchmark("plain", set_jsonl=lines(GOOD))
        with pytest.raises(InvalidRequest, match="context"):
            await client.run_benchmark("tiny", prompt_tokens=10_000)
        with pytest.raises(InvalidRequest, match="nothing"):
            await client.run_benchmark("tiny", streams=())
        with pytest.raises(ModelNotFound):
            await client.run_benchmark("no-such-model")
        with pytest.raises(BenchmarkNotFound):
            await client.cancel_benchmark("no-such-benchmark")


async def test_a_cancelled_benchmark_ends_and_those_behind_it_run(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        long = await client.run_benchmark("slow", rounds=100, answer_tokens=1000, wait=False)
        assert long.state == "open"
        behind = await client.run_benchmark("tiny", wait=False, **SMALL)
        async with anyio.create_task_group() as tasks:

            async def wait_for_long() -> None:
                with pytest.raises(Cancelled):
                    await client.run_benchmark(
                        "slow", benchmark_id=long.benchmark_id, rounds=100, answer_tokens=1000
                    )

            tasks.start_soon(wait_for_long)
            reply = await client.cancel_benchmark(long.benchmark_id)
            assert reply.state == "cancelled" and reply.seq is not None
        assert (await client.cancel_benchmark(long.benchmark_id)).seq is None
        finished = await client.run_benchmark("tiny", benchmark_id=behind.benchmark_id, **SMALL)
        assert finished.state == "finished"


async def test_a_benchmark_goes_on_after_its_node_was_killed_and_ends_once(tmp_path: Path) -> None:
    """But not with other settings than it was started with: the results would be of two versions."""
    models = tmp_path / "models"
    models.mkdir()
    tiny_model(models / "tiny.gguf", chat_template=CHAT_TEMPLATE)
    tiny_model(models / "reset.gguf", chat_template=CHAT_TEMPLATE)
    settings = tmp_path / "suite.toml"
    settings.write_text("[models.reset]\ncontext_length = 64\n")
    asked: Options = {"streams": (1,), "rounds": 15, "prompt_tokens": 8, "answer_tokens": 8}
    questions = lines(*[GOOD | {"prompt": f"Question {number}"} for number in range(3)])
    async with service_and_client(models, tmp_path / "suite") as (service, client):
        await client.run_benchmark("tiny", set_jsonl=questions, benchmark_id="b", wait=False, **asked)
        await client.run_benchmark("reset", benchmark_id="c", wait=False, **asked)
        with anyio.fail_after(30):
            async for recorded in client.events("benchmark.b.progressed", follow=True):
                if progressed([recorded]):
                    break
        await service.kill()
    async with service_and_client(models, tmp_path / "suite", "--config", str(settings)) as (_, client):
        reply = await client.run_benchmark("tiny", set_jsonl=questions, benchmark_id="b", **asked)
        with pytest.raises(Conflict, match="other settings"):
            await client.run_benchmark("reset", benchmark_id="c", **asked)
        events = await history(client)
    assert reply.state == "finished" and reply.result is not None and reply.result.quality is not None
    assert reply.result.quality.passed == 3
    told = [fact for fact in facts(events) if fact.startswith(("benchmark", "evaluation", "node.started"))]
    assert [fact for fact in told if fact != "benchmark.progressed"] == [
        "node.started",
        "benchmark.started",
        "benchmark.started",
        "node.started",
        "benchmark.finished",
        "evaluation.logged",
        "benchmark.failed",
    ]
    # What the log knew was not measured again.
    noted = progressed(events)
    assert sorted(sample.round for each in noted for sample in each.rounds) == list(range(15))
    assert sorted(answer.line for each in noted for answer in each.answers) == [1, 2, 3]
