"""A benchmark by its events: what is left, and what comes out of it, however often it was cut."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from suite.domain.benchmark import (
    LEAST_PATIENCE_SECONDS,
    PATIENCE_SECONDS,
    PAUSES,
    UNKNOWN,
    Benchmark,
    Timed,
    differences,
    evolve,
    finish,
    move,
    news,
    patience,
    result_of,
    round_of,
    speed_prompt,
    with_known,
)
from suite.messages.benchmarks import AnswerSample, LoadSample, NumberedQuestion, Question, RoundSample
from suite.messages.events import (
    BenchmarkCancelled,
    BenchmarkFailed,
    BenchmarkProgressed,
    BenchmarkStarted,
    Event,
)

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
ID: dict[str, Any] = {"benchmark_id": "b", "model_id": "m"}


def started(*, questions: int = 4, **fields: Any) -> BenchmarkStarted:
    return msgspec.structs.replace(
        BenchmarkStarted(
            **ID,
            node="box1",
            content="abc",
            settings_key="key",
            cycle_id="w48",
            streams=(1, 4),
            rounds=3,
            prompt_tokens=256,
            answer_tokens=64,
            questions=tuple(
                NumberedQuestion(
                    line=line,
                    question=Question(prompt="x", judge="y") if line % 2 else Question(prompt="x", exact="y"),
                )
                for line in range(1, questions + 1)
            ),
        ),
        **fields,
    )


def sample(streams: int, number: int, first_token_ms: float = 10.0) -> RoundSample:
    return RoundSample(
        streams=streams,
        round=number,
        first_token_ms=first_token_ms,
        latency_ms=100.0,
        prompt_tokens_per_second=1000.0,
        tokens_per_second=50.0,
        total_tokens_per_second=50.0,
    )


ROUNDS = [sample(streams, number) for streams in (1, 4) for number in range(3)]
ANSWERS = [
    AnswerSample(line=1, outcome="passed", latency_ms=5.0),
    AnswerSample(line=2, outcome="failed", latency_ms=5.0),
    AnswerSample(line=3, outcome="unclear", latency_ms=5.0),
    AnswerSample(line=4, outcome="refused"),
]


def folded(*events: Event) -> Benchmark:
    benchmark = UNKNOWN
    for event in events:
        benchmark = evolve(benchmark, event)
    return benchmark


def complete(start: BenchmarkStarted) -> Benchmark:
    answers = tuple(ANSWERS[: len(start.questions)])
    return folded(start, BenchmarkProgressed(**ID, rounds=tuple(ROUNDS), answers=answers))


@given(
    st.permutations([*ROUNDS, *ANSWERS]),
    st.lists(st.integers(0, 9), max_size=12),
)
def test_what_is_left_is_what_the_log_has_not_however_it_was_told(
    order: list[RoundSample | AnswerSample], again: list[int]
) -> None:
    benchmark = folded(started())
    for each in [*order, *(order[index] for index in again)]:
        known = benchmark
        if isinstance(each, RoundSample):
            measured = msgspec.structs.replace(
                known, rounds={**known.rounds, (each.streams, each.round): each}
            )
        else:
            measured = msgspec.structs.replace(known, answers={**known.answers, each.line: each})
        event = news(known, measured)
        assert (event is None) == (measured == known)
        benchmark = known if event is None else evolve(known, event)
        left = {(streams, number) for streams in (1, 4) for number in range(3)} - benchmark.rounds.keys()
        assert set(benchmark.rounds_left()) == left
        assert {one.line for one in benchmark.questions_left()} == {1, 2, 3, 4} - benchmark.answers.keys()
        assert benchmark.done + len(left) + len(list(benchmark.questions_left())) == benchmark.total
    assert benchmark == complete(started())


def test_rounds_of_different_streams_take_turns_and_questions_for_a_judge_come_last() -> None:
    benchmark = folded(started())
    assert list(benchmark.rounds_left()) == [(1, 0), (4, 0), (1, 1), (4, 1), (1, 2), (4, 2)]
    assert [each.line for each in benchmark.questions_left()] == [2, 4, 1, 3]


def test_the_first_of_each_counts() -> None:
    first, second = sample(1, 0, 10.0), sample(1, 0, 99.0)
    loads = [LoadSample(load_ms=each, resident_bytes=1) for each in (1.0, 2.0)]
    told = [
        BenchmarkProgressed(**ID, rounds=(each,), load=load)
        for each, load in zip((first, second), loads, strict=True)
    ]
    benchmark = folded(started(), started(node="box2"), *told)
    assert benchmark.started == started()
    assert (benchmark.rounds[1, 0], benchmark.load) == (first, loads[0])
    cancelled, failed = BenchmarkCancelled(**ID), BenchmarkFailed(**ID, code="x", message="y")
    ended = folded(started(), cancelled, failed, told[0])
    assert (ended.end, ended.state, ended.done) == (cancelled, "cancelled", 0)
    assert news(ended, benchmark) is None


def test_only_answers_that_were_judged_count_for_the_accuracy() -> None:
    finished, evaluation = finish(complete(started()), trust_so_far=0.9, now=NOW)
    quality = finished.result.quality
    assert quality is not None and quality.accuracy is not None
    assert (quality.passed, quality.failed, quality.unclear, quality.refused) == (1, 1, 1, 1)
    assert quality.accuracy.samples == 2
    assert (evaluation.accuracy, evaluation.trust_score, evaluation.avg_latency_ms) == (0.5, 0.5, 100.0)
    assert (evaluation.evaluation_id, evaluation.cycle_id) == (finished.evaluation_id, "w48")
    again, _ = finish(complete(started()), trust_so_far=0.9, now=NOW)
    other, _ = finish(complete(started(benchmark_id="other")), trust_so_far=0.9, now=NOW)
    assert again.evaluation_id == finished.evaluation_id not in ("b", other.evaluation_id)


def test_speed_alone_neither_raises_nor_lowers_the_trust() -> None:
    start = started(questions=0)
    _, evaluation = finish(complete(start), trust_so_far=0.7, now=NOW)
    assert (evaluation.trust_score, evaluation.accuracy) == (0.7, None)


def test_a_set_that_only_a_bad_judge_has_seen_has_no_accuracy() -> None:
    start = started(questions=1, streams=())
    unclear = AnswerSample(line=1, outcome="unclear", latency_ms=7.0)
    benchmark = folded(start, BenchmarkProgressed(**ID, answers=(unclear,)))
    finished, evaluation = finish(benchmark, trust_so_far=0.5, now=NOW)
    assert finished.result.quality is not None and finished.result.quality.accuracy is None
    assert (evaluation.accuracy, evaluation.avg_latency_ms) == (None, 7.0)


def test_a_round_is_one_sample_however_many_streams_it_has() -> None:
    speeds = {each.streams: each for each in result_of(complete(started())).speed}
    assert {each.first_token_ms.samples for each in speeds.values()} == {3}


def test_it_is_told_in_how_many_rounds_others_generated() -> None:
    disturbed = msgspec.structs.replace(sample(1, 0), disturbed=True)
    benchmark = folded(started(), BenchmarkProgressed(**ID, rounds=(disturbed, sample(4, 0))))
    assert result_of(benchmark).disturbed_rounds == 1
    assert result_of(complete(started())).disturbed_rounds == 0


def test_what_it_waited_and_what_was_interrupted_is_told_and_outlasts_a_restart() -> None:
    known = folded(started())
    waiting = msgspec.structs.replace(known, waits=True, interrupted=2, waited_seconds=9.0)
    told = news(known, waiting)
    assert told is not None
    known = evolve(known, told)
    assert known == waiting
    assert news(known, msgspec.structs.replace(known, waited_seconds=68.0)) is None, "each minute is told"
    assert news(known, msgspec.structs.replace(known, waited_seconds=69.0)) is not None
    # An append whose outcome is not known does not count twice.
    assert with_known(waiting, known) == waiting
    done = msgspec.structs.replace(known, waits=False, rounds={(1, 0): sample(1, 0)}, interrupted=3)
    told = news(known, done)
    assert told is not None
    known = evolve(known, told)
    assert (known.waits, known.interrupted, known.waited_seconds) == (False, 3, 9.0)
    assert (result_of(known).interrupted, result_of(known).waited_seconds) == (3, 9.0)


def test_on_another_node_it_waits_for_the_users_of_that_one() -> None:
    waiting = BenchmarkProgressed(**ID, rounds=(ROUNDS[0],), waits=True, interrupted=3, waited_seconds=700.0)
    known = folded(started(may_move=True), waiting)
    moved = move(known, "box1", node="box2", settings_key="k")
    assert moved is not None
    known = evolve(known, moved)
    assert (known.waits, known.interrupted, known.waited_seconds) == (False, 0, 0.0)


def test_it_does_not_wait_any_more_when_it_has_ended() -> None:
    waiting = BenchmarkProgressed(**ID, waits=True)
    assert not folded(started(), waiting, BenchmarkCancelled(**ID)).waits


@given(st.lists(st.floats(0.01, 60.0), min_size=1, max_size=50))
def test_however_many_users_there_are_it_waits_for_them_most_of_the_time_and_ends(
    took: list[float],
) -> None:
    """`took`: how long each of its rounds takes beside them, as they never leave."""
    benchmark, waited, before = folded(started()), 0.0, 0.0
    for seconds in took:
        pause = patience(benchmark, before)
        assert pause >= PAUSES * before, "so that it takes a small part of their time"
        waited, before = waited + pause, seconds
        benchmark = msgspec.structs.replace(benchmark, waited_seconds=waited)
    assert waited <= PATIENCE_SECONDS + sum(max(PAUSES * each, LEAST_PATIENCE_SECONDS) for each in took)


def test_a_round_has_the_means_of_its_generations_and_the_speed_of_all_together() -> None:
    def timed(first: float, tokens: int) -> Timed:
        return Timed(
            prompt_tokens=100,
            completion_tokens=tokens,
            prompt_ms=100.0,
            first_token_ms=first,
            latency_ms=first + 100,
            tokens_per_second=10.0 * tokens if tokens > 1 else None,
        )

    found = round_of(2, 1, [timed(10.0, 1), timed(20.0, 3)], seconds=2.0)
    assert (found.first_token_ms, found.latency_ms, found.prompt_tokens_per_second) == (15.0, 115.0, 1000.0)
    assert (found.tokens_per_second, found.total_tokens_per_second) == (30.0, 2.0)


def test_no_two_generations_of_a_benchmark_have_one_prompt() -> None:
    prompts = [
        speed_prompt(4, streams, number, stream)
        for streams in (1, 4, 8)
        for number in range(5)
        for stream in range(streams)
    ]
    assert len(set(prompts)) == len(prompts)


def test_an_id_means_the_same_if_the_same_is_to_be_measured() -> None:
    assert differences(started(), started(node="box2", cycle_id="w49")) == ()
    assert differences(started(), started(rounds=4, set_sha256="other")) == ("rounds", "set")


def test_another_node_goes_on_with_the_answers_and_measures_the_speed_anew() -> None:
    known = complete(started(may_move=True))
    fact = move(known, "box1", node="box2", settings_key="other")
    assert fact is not None and fact.answered == len(known.answers) > 0
    moved = evolve(known, fact)
    assert moved.started is not None and (moved.started.node, moved.started.settings_key) == ("box2", "other")
    assert (moved.answers, moved.rounds, moved.load) == (known.answers, {}, None)
    assert move(moved, "box1", node="box3", settings_key="") is None, "another one was first"


def test_a_benchmark_of_a_node_that_was_named_waits_for_it() -> None:
    assert move(complete(started()), "box1", node="box2", settings_key="key") is None
    assert move(UNKNOWN, "box1", node="box2", settings_key="key") is None
