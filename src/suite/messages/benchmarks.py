"""What a benchmark asks a model, what it measured, and what came out of it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.messages.actions.base import Text

SET_BYTES: Final = 256 * 1024
"""The largest set, as JSON lines: it stands in the event of the start, which has to fit into one message."""
SET_LINES: Final = 2000
"""The most lines of a set."""

Streams: TypeAlias = Annotated[int, Meta(ge=1, le=64)]
"""How many generations run beside each other."""
Outcome: TypeAlias = Literal["passed", "failed", "unclear", "refused"]
"""`unclear`: the judge said neither PASS nor FAIL; `refused`: the service refused the question, such as one
that is longer than the context. Neither counts for the accuracy."""
BenchmarkState: TypeAlias = Literal["open", "finished", "failed", "cancelled"]
"""`open`: it waits for its turn, or for others who use the node, runs, or waits for its node to come back."""


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line of a set: a prompt, and one way to tell whether the answer to it is right.

    The prompt is sent as a user's message, at temperature 0.
    """

    prompt: Text
    system: Text | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=32_768)] = 256
    exact: str | None = None
    """The answer is this text, apart from white space around it."""
    contains: Text | None = None
    """The answer has this text in it."""
    pattern: Text | None = None
    """This regular expression of Python is found in the answer."""
    json_schema: dict[str, Any] | None = None
    """The answer is JSON that this schema (draft 2020-12) describes. A fence of Markdown around it is left
    out."""
    judge: Text | None = None
    """What another model is to judge the answer by, in words."""
    ignore_case: bool = False
    """For ``exact``, ``contains`` and ``pattern``."""


class NumberedQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A question with its line in the set, counted from 1."""

    line: int
    question: Question


class BrokenLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a set that asks nothing that could be asked; the others count."""

    line: int
    """Counted from 1."""
    problem: str


# --- what is measured ---------------------------------------------------------------------------------------


class LoadSample(msgspec.Struct, frozen=True, kw_only=True):
    """The load of the model that the benchmark ran on, which may have been before the benchmark."""

    load_ms: float
    resident_bytes: int


class RoundSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """So many generations that were started together, and waited for: means over them."""

    streams: int
    round: int
    """Counted from 0."""
    first_token_ms: float
    """Since the model's process had the request; waiting for a slot counts."""
    latency_ms: float
    """Until the last token."""
    prompt_tokens_per_second: float
    """Of each, from the moment that it got a slot."""
    tokens_per_second: float | None
    """How fast the answer of each came; None: they had a token at most."""
    total_tokens_per_second: float
    """All tokens of all answers, by the time that all of them took together."""
    disturbed: bool = False
    """Whether others used the node meanwhile."""


class AnswerSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a question. The answer itself is not stored."""

    line: int
    outcome: Outcome
    latency_ms: float | None = None
    """Until the last token; None: there was no answer."""
    problem: str = ""
    """Why it did not pass, as far as there is more to say than that the answer was another one."""


# --- what comes out of it -----------------------------------------------------------------------------------


class Mean(msgspec.Struct, frozen=True, kw_only=True):
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float | None
    high: float | None
    """Null: there were fewer than two samples."""
    samples: int


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A share, 0 to 1, with its 95 % confidence interval."""

    share: float
    low: float
    high: float
    samples: int


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a model is with so many generations beside each other. A sample is a round of them."""

    streams: int
    first_token_ms: Mean
    latency_ms: Mean
    prompt_tokens_per_second: Mean
    tokens_per_second: Mean | None
    """Of each; null: the answers had a token at most."""
    total_tokens_per_second: Mean
    """Of all together."""


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How well a model has answered the questions of a set."""

    set_sha256: str
    """The digest of the set's questions: the results of two models compare if they were asked the same."""
    accuracy: Share | None
    """The share of those that passed among those that passed or failed; null: there were none."""
    passed: int
    failed: int
    unclear: int
    """Questions about whose answers the judge said neither PASS nor FAIL."""
    refused: int
    """Questions that the service refused."""
    broken_lines: int
    """Lines of the set that were left out."""
    latency_ms: Mean | None
    """Of the answers; null: there were none."""


class BenchmarkResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came out of a benchmark."""

    load: LoadSample | None
    prompt_tokens: int
    """About so many tokens each prompt had that the speed was measured with."""
    answer_tokens: int
    """So many tokens each answer had at most."""
    speed: tuple[Speed, ...]
    quality: Quality | None
    """Null: there was no set."""
    disturbed_rounds: int = 0
    """In how many rounds others used the node meanwhile, as it had waited for them long enough: the speed is
    then not the model's alone."""
    interrupted: int = 0
    """How often others came in the middle of a round or an answer: it was stopped for them, does not count,
    and was measured again."""
    waited_seconds: float = 0.0
    """For how long it waited for others."""
