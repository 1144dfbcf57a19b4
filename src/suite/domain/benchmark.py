"""A benchmark as the log tells it, what is left to measure, and what comes out of it (ADR 72)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from statistics import fmean
from typing import Final, TypeAlias
from uuid import UUID, uuid5

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from suite.domain.intervals import mean, share
from suite.messages.benchmarks import (
    AnswerSample,
    BenchmarkResult,
    BenchmarkState,
    LoadSample,
    Mean,
    NumberedQuestion,
    Quality,
    RoundSample,
    Speed,
)
from suite.messages.events import (
    BenchmarkCancelled,
    BenchmarkFailed,
    BenchmarkFinished,
    BenchmarkMoved,
    BenchmarkProgressed,
    BenchmarkStarted,
    EvaluationLogged,
    Event,
)

Round: TypeAlias = tuple[int, int]
"""How many streams, and which round of them."""
End: TypeAlias = BenchmarkFinished | BenchmarkFailed | BenchmarkCancelled

PATIENCE_SECONDS: Final = 600.0
"""So long a benchmark waits in all until nobody else uses its node."""
LEAST_PATIENCE_SECONDS: Final = 10.0
"""So long it waits before each round and each question at least, if others are there."""
PAUSES: Final = 10
"""So many times as long as a round or a question took, it waits for others before the next."""
TOLD_SECONDS: Final = 60.0
"""What it has waited longer than the log knows is told."""

_EVALUATIONS: Final = UUID("c70c7b6c-d9ae-4fc7-b3fa-e7841ab9bce1")
"""The namespace of the ids of their evaluations."""

_encode = msgspec.json.Encoder().encode


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a benchmark."""

    started: BenchmarkStarted | None = None
    """None: there is no such benchmark."""
    load: LoadSample | None = None
    rounds: Mapping[Round, RoundSample] = {}
    answers: Mapping[int, AnswerSample] = {}
    """By the line of the question."""
    waits: bool = False
    """Whether it waits until nobody else uses the node."""
    interrupted: int = 0
    """How often others came in the middle of a round or an answer, so that it was stopped."""
    waited_seconds: float = 0.0
    """For how long it has waited for others."""
    end: End | None = None

    @property
    def state(self) -> BenchmarkState:
        """How it stands."""
        match self.end:
            case BenchmarkFinished():
                return "finished"
            case BenchmarkFailed():
                return "failed"
            case BenchmarkCancelled():
                return "cancelled"
            case _:
                return "open"

    @property
    def total(self) -> int:
        """How many rounds and questions it has."""
        if self.started is None:
            return 0
        return len(self.started.streams) * self.started.rounds + len(self.started.questions)

    @property
    def done(self) -> int:
        """How many of them are done."""
        return len(self.rounds) + len(self.answers)

    def rounds_left(self) -> Iterator[Round]:
        """The rounds to measure. Those of different streams take turns: what slows the machine slows all."""
        assert self.started is not None, "it was started"
        for number in range(self.started.rounds):
            for streams in self.started.streams:
                if (streams, number) not in self.rounds:
                    yield streams, number

    def questions_left(self) -> Iterator[NumberedQuestion]:
        """The questions to ask, those first that need no judge."""
        assert self.started is not None, "it was started"
        left = [each for each in self.started.questions if each.line not in self.answers]
        yield from (each for each in left if each.question.judge is None)
        yield from (each for each in left if each.question.judge is not None)


UNKNOWN: Final = Benchmark()


def evolve(benchmark: Benchmark, event: Event) -> Benchmark:
    """A benchmark after one event. The first start, the first of each sample, and the first end count."""
    match event:
        case BenchmarkStarted() if benchmark.started is None:
            return replace(benchmark, started=event)
        case BenchmarkProgressed() if benchmark.end is None:
            return replace(
                benchmark,
                load=benchmark.load or event.load,
                rounds={_round(each): each for each in event.rounds} | dict(benchmark.rounds),
                answers={each.line: each for each in event.answers} | dict(benchmark.answers),
                waits=event.waits,
                interrupted=max(benchmark.interrupted, event.interrupted),
                waited_seconds=max(benchmark.waited_seconds, event.waited_seconds),
            )
        case BenchmarkMoved() if benchmark.started is not None and benchmark.end is None:
            # The speed is of a machine: what was measured on another one does not count, nor who used that.
            started = replace(benchmark.started, node=event.node, settings_key=event.settings_key)
            return Benchmark(started=started, answers=benchmark.answers)
        case BenchmarkFinished() | BenchmarkFailed() | BenchmarkCancelled() if benchmark.end is None:
            return replace(benchmark, waits=False, end=event)
        case _:
            return benchmark


def news(benchmark: Benchmark, measured: Benchmark) -> BenchmarkProgressed | None:
    """The event of what was measured beyond what is known; None if that is nothing, or if it has ended.

    That it waits, or does not any more, is worth one too, and so is each minute of waiting.
    """
    started = benchmark.started
    if started is None or benchmark.end is not None:
        return None
    load = measured.load if benchmark.load is None else None
    rounds = tuple(each for key, each in measured.rounds.items() if key not in benchmark.rounds)
    answers = tuple(each for line, each in measured.answers.items() if line not in benchmark.answers)
    waited = measured.waited_seconds - benchmark.waited_seconds
    is_worth_it = load is not None or rounds or answers or measured.waits != benchmark.waits
    if not is_worth_it and waited < TOLD_SECONDS:
        return None
    return BenchmarkProgressed(
        benchmark_id=started.benchmark_id,
        model_id=started.model_id,
        load=load,
        rounds=rounds,
        answers=answers,
        waits=measured.waits,
        interrupted=measured.interrupted,
        waited_seconds=round(measured.waited_seconds, 1),
    )


def with_known(measured: Benchmark, known: Benchmark) -> Benchmark:
    """What was measured, with all that the log knows by now."""
    return replace(
        known,
        load=known.load or measured.load,
        rounds={**measured.rounds, **known.rounds},
        answers={**measured.answers, **known.answers},
        waits=measured.waits,
        interrupted=max(measured.interrupted, known.interrupted),
        waited_seconds=max(measured.waited_seconds, known.waited_seconds),
    )


def patience(benchmark: Benchmark, took: float) -> float:
    """How long it waits before the next round or question until nobody else uses the node, in seconds.

    What was cut because somebody came counts as waited for. `took`: how long the one before took. Ten minutes
    in all, and then so long that what it measures beside others is a small part of the time, and that it ends
    nevertheless: no single wait is longer than ten minutes.
    """
    pause = min(PAUSES * took, PATIENCE_SECONDS)
    return max(PATIENCE_SECONDS - benchmark.waited_seconds, pause, LEAST_PATIENCE_SECONDS)


def differences(before: BenchmarkStarted, now: BenchmarkStarted) -> tuple[str, ...]:
    """What two requests with one id want differently; if that is nothing, they get the same result."""
    compared = {
        "model": "model_id",
        "streams": "streams",
        "rounds": "rounds",
        "prompt_tokens": "prompt_tokens",
        "answer_tokens": "answer_tokens",
        "set": "set_sha256",
        "judge": "judge",
    }
    return tuple(told for told, name in compared.items() if getattr(before, name) != getattr(now, name))


def move(benchmark: Benchmark, lost: str, *, node: str, settings_key: str) -> BenchmarkMoved | None:
    """The event with which a node takes over what a lost one was to run.

    None if that is not the lost one's any more, or if it was started for that node.
    """
    started = benchmark.started
    if started is None or benchmark.end is not None or started.node != lost or not started.may_move:
        return None
    return BenchmarkMoved(
        benchmark_id=started.benchmark_id,
        model_id=started.model_id,
        node=node,
        lost_node=lost,
        settings_key=settings_key,
        answered=len(benchmark.answers),
    )


# --- what comes out of it -----------------------------------------------------------------------------------


def finish(
    benchmark: Benchmark, *, trust_so_far: float, now: datetime
) -> tuple[BenchmarkFinished, EvaluationLogged]:
    """The events of the end of a benchmark of which nothing is left: appended together, or not at all.

    `trust_so_far` is the quality that the model is trusted with. A benchmark without a set says nothing about
    quality, so that its evaluation repeats it: fast nonsense must not raise the trust, nor speed lower it.
    """
    started = benchmark.started
    assert started is not None, "it was started"
    result = result_of(benchmark)
    accuracy = None if result.quality is None or result.quality.accuracy is None else result.quality.accuracy
    # Not the benchmark's own id: clients choose that, and an evaluation may have it already.
    evaluation_id = str(uuid5(_EVALUATIONS, started.benchmark_id))
    finished = BenchmarkFinished(
        benchmark_id=started.benchmark_id,
        model_id=started.model_id,
        evaluation_id=evaluation_id,
        result=result,
    )
    evaluation = EvaluationLogged(
        evaluation_id=evaluation_id,
        model_name=started.model_id,
        cycle_id=started.cycle_id,
        trust_score=trust_so_far if accuracy is None else accuracy.share,
        accuracy=None if accuracy is None else accuracy.share,
        avg_latency_ms=_latency_ms(result),
        evaluation_timestamp=now,
        version=started.version or UNSET,
        comparison_data=_encode(
            {
                "benchmark_id": started.benchmark_id,
                "node": started.node,
                "content": started.content,
                "settings_key": started.settings_key,
                "judge": started.judge or None,
                "result": result,
            }
        ).decode(),
    )
    return finished, evaluation


def result_of(benchmark: Benchmark) -> BenchmarkResult:
    """The result of what was measured so far."""
    started = benchmark.started
    assert started is not None, "it was started"
    return BenchmarkResult(
        load=benchmark.load,
        prompt_tokens=started.prompt_tokens,
        answer_tokens=started.answer_tokens,
        speed=tuple(_speeds(started.streams, benchmark.rounds.values())),
        disturbed_rounds=sum(each.disturbed for each in benchmark.rounds.values()),
        interrupted=benchmark.interrupted,
        waited_seconds=benchmark.waited_seconds,
        quality=_quality(started, benchmark.answers.values()) if started.questions else None,
    )


def _latency_ms(result: BenchmarkResult) -> float:
    """The latency for comparisons: with the fewest streams, else of the answers; 0: not measured."""
    if result.speed:
        return min(result.speed, key=lambda each: each.streams).latency_ms.mean
    latency = result.quality.latency_ms if result.quality is not None else None
    return 0.0 if latency is None else latency.mean


def _speeds(streams: Iterable[int], samples: Iterable[RoundSample]) -> Iterator[Speed]:
    every = list(samples)
    for count in streams:
        rounds = [each for each in every if each.streams == count]
        if rounds:
            yield _speed(count, rounds)


def _speed(streams: int, rounds: Sequence[RoundSample]) -> Speed:
    # The streams of a round depend on each other, so that a round is one sample, however many it has.
    def over(value: Callable[[RoundSample], float]) -> Mean:
        found = mean([value(each) for each in rounds])
        assert found is not None, "there are rounds"
        return found

    return Speed(
        streams=streams,
        first_token_ms=over(lambda each: each.first_token_ms),
        latency_ms=over(lambda each: each.latency_ms),
        prompt_tokens_per_second=over(lambda each: each.prompt_tokens_per_second),
        tokens_per_second=mean(
            [each.tokens_per_second for each in rounds if each.tokens_per_second is not None]
        ),
        total_tokens_per_second=over(lambda each: each.total_tokens_per_second),
    )


def _quality(started: BenchmarkStarted, answers: Iterable[AnswerSample]) -> Quality:
    every = list(answers)
    counts = {
        outcome: sum(each.outcome == outcome for each in every)
        for outcome in ("passed", "failed", "unclear", "refused")
    }
    judged = counts["passed"] + counts["failed"]
    return Quality(
        set_sha256=started.set_sha256,
        accuracy=share(counts["passed"], judged) if judged else None,
        passed=counts["passed"],
        failed=counts["failed"],
        unclear=counts["unclear"],
        refused=counts["refused"],
        broken_lines=started.broken_line_count,
        latency_ms=mean([each.latency_ms for each in every if each.latency_ms is not None]),
    )


# --- a round ------------------------------------------------------------------------------------------------


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one generation."""

    prompt_tokens: int
    completion_tokens: int
    prompt_ms: float
    """From the moment that it got a slot to the first token."""
    first_token_ms: float
    """Since the model's process had the request."""
    latency_ms: float
    """Until the last token."""
    tokens_per_second: float | None


def round_of(
    streams: int, number: int, timed: Sequence[Timed], *, seconds: float, disturbed: bool = False
) -> RoundSample:
    """The sample of generations that were started together, and took so many seconds together.

    `disturbed`: whether others used the node meanwhile.
    """
    prompts = [_a_second(each.prompt_tokens, each.prompt_ms / 1000) for each in timed]
    speeds = [each.tokens_per_second for each in timed if each.tokens_per_second is not None]
    return RoundSample(
        streams=streams,
        round=number,
        first_token_ms=fmean(each.first_token_ms for each in timed),
        latency_ms=fmean(each.latency_ms for each in timed),
        prompt_tokens_per_second=fmean(prompts),
        tokens_per_second=fmean(speeds) if speeds else None,
        total_tokens_per_second=_a_second(sum(each.completion_tokens for each in timed), seconds),
        disturbed=disturbed,
    )


def _a_second(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _round(sample: RoundSample) -> Round:
    return sample.streams, sample.round


def speed_prompt(tokens: int, streams: int, number: int, stream: int) -> str:
    """A text of at least so many tokens, whose beginning no other generation of a benchmark has.

    It counts, so that models go on counting, and none ends its answer early. A number and its comma are two
    tokens at least.
    """
    first = ((number * 64 + streams) * 64 + stream) * 7 + 1
    return " ".join(f"{each}," for each in range(first, first + tokens // 2 + 1))
