"""A benchmark and what came out of it, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from suite.explanation.words import asked, counted, listed, span
from suite.messages.benchmarks import BenchmarkResult, Quality
from suite.messages.events import (
    BenchmarkCancelled,
    BenchmarkEvent,
    BenchmarkFailed,
    BenchmarkFinished,
    BenchmarkMoved,
    BenchmarkProgressed,
    BenchmarkStarted,
)


def sentences(event: BenchmarkEvent) -> Iterator[str]:
    """What happened to a benchmark."""
    benchmark = f"The benchmark {event.benchmark_id} of {event.model_id}"
    match event:
        case BenchmarkStarted():
            yield f"{benchmark} was started on {event.node}{asked(event.requested_by)}."
            yield from _started(event)
        case BenchmarkMoved():
            yield f"{benchmark} goes on on {event.node}, as {event.lost_node} is lost."
            yield "What was measured of the speed is measured again there."
            if event.answered:
                yield f"{counted(event.answered, 'answer')} of before count."
        case BenchmarkProgressed():
            yield from _progressed(event, benchmark)
        case BenchmarkFinished():
            yield f"{benchmark} is finished: its result is the evaluation {event.evaluation_id}."
            yield from _of_others(event.result)
            if event.result.quality is not None:
                yield _quality(event.result.quality)
        case BenchmarkFailed():
            yield f"{benchmark} has failed: {event.message} ({event.code})."
        case BenchmarkCancelled():
            yield f"{benchmark} was cancelled{asked(event.requested_by)}."


def _started(event: BenchmarkStarted) -> Iterator[str]:
    if event.streams:
        streams = listed([str(each) for each in event.streams])
        yield (
            f"It measures the speed with {streams} generations beside each other, "
            f"{counted(event.rounds, 'time')} each."
        )
    if event.questions:
        judge = f"; {event.judge} judges where that is wanted" if event.judge else ""
        lines = counted(event.broken_line_count, "broken line")
        verb = "is" if event.broken_line_count == 1 else "are"
        broken = f" {lines} of the set {verb} left out." if event.broken_line_count else ""
        yield f"It asks {counted(len(event.questions), 'question')}{judge}.{broken}"


def _progressed(event: BenchmarkProgressed, benchmark: str) -> Iterator[str]:
    rounds, answers = len(event.rounds), len(event.answers)
    if rounds or answers or event.load is not None or not event.waits:
        more = f"{counted(rounds, 'round')} and {counted(answers, 'answer')}"
        yield f"{benchmark} has measured {more} more."
    if event.waits:
        waited = span(event.waited_seconds)
        yield f"{benchmark} waits until nobody else uses the node: {waited} so far."


def _of_others(result: BenchmarkResult) -> Iterator[str]:
    """How it came along with those who used the node."""
    if result.waited_seconds:
        yield f"It waited {span(result.waited_seconds)} until nobody else used the node."
    if result.interrupted:
        yield f"What others had interrupted, {counted(result.interrupted, 'time')}, was measured again."
    if result.disturbed_rounds:
        rounds = counted(result.disturbed_rounds, "round")
        yield f"Others used the node during {rounds}, as it had waited for them long enough."


def _quality(quality: Quality) -> str:
    judged = counted(quality.passed + quality.failed, "answer")
    passed = f"{quality.passed} of {judged} passed"
    if (accuracy := quality.accuracy) is None:
        return f"{passed}."
    low, high = (f"{each * 100:.0f} %" for each in (accuracy.low, accuracy.high))
    return f"{passed}: an accuracy between {low} and {high}, with 95 % confidence."
