"""Benchmarks of models: started, listed, cancelled (ADR 72)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from suite.messages.actions.base import EntryId, ModelId, Name, Page, Reply, Request
from suite.messages.benchmarks import BenchmarkResult, BenchmarkState, BrokenLine, Streams


class RunBenchmarkRequest(Request, frozen=True, kw_only=True):
    """Measure how fast a model is and, with a set of questions, how well it answers.

    It is a job of the node that has the model: it goes on when its requester has gone, and after a restart of
    the node. Benchmarks of a node run one after the other. The result is an evaluation of the model.

    Others who use the node go first: what it measures is stopped when they come, and measured again later.
    """

    model_id: ModelId
    benchmark_id: EntryId | None = None
    """The service makes one if left out. The same id is run once: who sends it again gets the same result."""
    cycle_id: Name | None = None
    """Of the evaluation. Null: one of its own, with the time of the start."""
    streams: Annotated[tuple[Streams, ...], Meta(max_length=8)] = (1, 4, 8)
    """With how many generations beside each other the speed is measured; empty: it is not."""
    rounds: Annotated[int, Meta(ge=1, le=100)] = 5
    """How many times each of them is measured."""
    prompt_tokens: Annotated[int, Meta(ge=1, le=16_384)] | None = None
    """How long each prompt is. Null: 256, or as many as fit into the context."""
    answer_tokens: Annotated[int, Meta(ge=2, le=4096)] | None = None
    """How long each answer is at most. Null: 64, or as many as fit into the context."""
    set_jsonl: str | None = None
    """A set of questions, one JSON object a line, 262,144 bytes at most: each has a ``prompt``, and one of
    ``exact``, ``contains``, ``pattern``, ``json_schema`` and ``judge``.

    It becomes part of the log, where consumers can read it. Broken lines are named, and the others count.
    """
    judge: ModelId | None = None
    """The model that judges the answers to questions with ``judge``."""
    wait: bool = True
    """False: answer when the job is in the log."""
    stream: bool = False
    """True: a message with the progress now and then, until the reply."""


class RunBenchmarkReply(Reply, frozen=True, kw_only=True):
    """The benchmark is finished, or waits for its turn if that was not waited for."""

    benchmark_id: str
    model_id: str
    state: BenchmarkState
    runs_on: str
    """The node whose job it is."""
    broken_lines: tuple[BrokenLine, ...] = ()
    """The lines of the set that were left out, the first hundred."""
    evaluation_id: str | None = None
    result: BenchmarkResult | None = None
    """Null: it is not finished."""
    seq: int


class FollowBenchmarkRequest(Request, frozen=True, kw_only=True):
    """Show the benchmark with this id, whatever it was asked to measure, and wait for its end."""

    benchmark_id: EntryId
    model_id: ModelId | None = None
    """Refused with ``conflict`` if it is a benchmark of another model. Null: it may be of any."""
    wait: bool = True
    """False: answer at once, also if it is not finished."""
    stream: bool = False
    """True: a message with the progress now and then, until the reply."""


class FollowBenchmarkReply(RunBenchmarkReply, frozen=True, kw_only=True):
    """The benchmark is finished, or goes on if its end was not waited for."""


class GetBenchmarksRequest(Page, frozen=True, kw_only=True):
    """Get the benchmarks of a model, or all, also those that wait or run."""

    model_id: ModelId | None = None
    state: BenchmarkState | None = None


class BenchmarkInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark."""

    benchmark_id: str
    model_id: str
    runs_on: str
    """The node whose job it is."""
    state: BenchmarkState
    started_at: str
    ended_at: str | None
    cycle_id: str
    done: int
    """How many of its rounds and questions are done."""
    total: int
    waits: bool = False
    """Whether it waits until nobody else uses the node."""
    code: str | None
    """Why it failed: the stable code of the error."""
    message: str | None
    evaluation_id: str | None
    result: BenchmarkResult | None


class GetBenchmarksReply(Reply, frozen=True, kw_only=True):
    """A page of benchmarks, the one started last in front; ``next_cursor`` is null on the last page."""

    benchmarks: tuple[BenchmarkInfo, ...]
    next_cursor: str | None


class CancelBenchmarkRequest(Request, frozen=True, kw_only=True):
    """End a benchmark that waits or runs. What was measured is not evaluated."""

    benchmark_id: EntryId


class CancelBenchmarkReply(Reply, frozen=True, kw_only=True):
    """The benchmark has ended: now, or before."""

    benchmark_id: str
    message: str
    state: BenchmarkState
    seq: int | None
    """Null: it had ended before."""
