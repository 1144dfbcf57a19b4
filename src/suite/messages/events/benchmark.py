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
    may_move: bool = False
    """Whether another node goes on with it if this one is lost: nobody has named this one. False in events of
    versions that did not say it."""


@event("benchmark", "moved")
class BenchmarkMoved(BenchmarkEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The node that was to run it is lost, and another one with the same content goes on with it.

    Answers that were checked count. The speed is measured from its beginning, as it is another machine's.
    """

    node: str
    """Who goes on with it."""
    lost_node: str
    settings_key: str
    """The digest of the settings with which the model is loaded there."""
    answered: int = 0
    """How many questions were done before."""


@event("benchmark", "progressed")
class BenchmarkProgressed(BenchmarkEvent, frozen=True, kw_only=True, omit_defaults=True):
    """More was measured, which need not be measured again after a restart; or it waits for others."""

    load: LoadSample | None = None
    rounds: tuple[RoundSample, ...] = ()
    answers: tuple[AnswerSample, ...] = ()
    waits: bool = False
    """Whether it waits until nobody else uses the node."""
    interrupted: int = 0
    """How often so far others came in the middle of a round or an answer, which was stopped for them."""
    waited_seconds: float = 0.0
    """For how long so far it has waited for others."""


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
