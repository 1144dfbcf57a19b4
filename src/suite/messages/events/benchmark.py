"""Facts about benchmarks."""

from __future__ import annotations

from suite.messages.benchmarks import (
    AnswerSample,
    BenchmarkResult,
    BrokenLine,
    LoadSample,
    NumberedQuestion,
    RoundSample,
)
from suite.messages.events.base import Event, event


class BenchmarkEvent(Event, frozen=True, kw_only=True):
    """A fact about one benchmark: a job of one node, which goes on with it after a restart (ADR 72)."""

    benchmark_id: str
    model_id: str
    """A model with adapters has a name of its own."""

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.benchmark_id,)


@event("benchmark", "started")
class BenchmarkStarted(BenchmarkEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody wants a benchmark; the node runs it when it has finished those that came before."""

    node: str
    content: str
    """The SHA-256 of the model's files: of another content the benchmark would be another one."""
    settings_key: str
    """The digest of the settings that the model is loaded with, as in ``load_started``."""
    version: int = 0
    """Which version of the model it is, by number; 0: not known yet."""
    cycle_id: str
    """Of the evaluation that comes out of it."""
    streams: tuple[int, ...]
    """With how many generations beside each other the speed is measured; empty: it is not."""
    rounds: int
    prompt_tokens: int
    answer_tokens: int
    questions: tuple[NumberedQuestion, ...] = ()
    set_sha256: str = ""
    """The digest of the questions; empty: there are none."""
    broken_lines: tuple[BrokenLine, ...] = ()
    """The lines of the set that were left out, the first ones if there are many."""
    broken_line_count: int = 0
    judge: str = ""
    """The model that judges; empty: none is needed."""
    requested_by: str = ""
    """How the requester calls itself; empty if it does not."""


@event("benchmark", "progressed")
class BenchmarkProgressed(BenchmarkEvent, frozen=True, kw_only=True, omit_defaults=True):
    """More was measured, which need not be measured again after a restart."""

    load: LoadSample | None = None
    rounds: tuple[RoundSample, ...] = ()
    answers: tuple[AnswerSample, ...] = ()


@event("benchmark", "finished")
class BenchmarkFinished(BenchmarkEvent, frozen=True, kw_only=True):
    """All was measured. The evaluation with the result is the next event of the log."""

    evaluation_id: str
    result: BenchmarkResult


@event("benchmark", "failed")
class BenchmarkFailed(BenchmarkEvent, frozen=True, kw_only=True):
    """It cannot be run to its end."""

    code: str
    """The stable code of the error."""
    message: str


@event("benchmark", "cancelled")
class BenchmarkCancelled(BenchmarkEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody does not want it any more."""

    requested_by: str = ""
    """How the requester calls itself; empty if it does not."""
