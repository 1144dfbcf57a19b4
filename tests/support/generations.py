"""Generations for an engine with a fake backend, what their listeners hear, and what is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from suite.engine.adapters import NO_ADAPTERS, AdapterSet
from suite.engine.engine import Engine
from suite.engine.generation import EngineRequest, Generation
from suite.engine.pictures.tokens import Piece
from suite.engine.reasoning import Reasoning
from suite.engine.sampler import SamplingParams
from suite.errors import SuiteError
from suite.messages.events import Outcome
from suite.messages.logprobs import TokenLogprobs
from support.backend import END, successor


@dataclass
class Heard:
    """A listener that keeps what it is told, and takes nothing after the end."""

    text: str = ""
    reasoning: str = ""
    ends: int = 0
    error: SuiteError | None = None

    def on_text(self, text: str, logprobs: TokenLogprobs | None = None, *, reasoning: str = "") -> None:
        assert not self.ends and logprobs is None
        self.text += text
        self.reasoning += reasoning

    def on_end(self, error: SuiteError | None) -> None:
        self.ends += 1
        self.error = error

    @property
    def tokens(self) -> list[int]:
        return [int(word) for word in self.text.split()]


@dataclass
class Asked:
    generation: Generation
    heard: Heard = field(default_factory=Heard)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def sampling(seed: int = 1) -> SamplingParams:
    return SamplingParams(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repeat_penalty=1.0, seed=seed)


def asked(
    prompt: Sequence[int],
    *,
    max_tokens: int = 8,
    seed: int = 1,
    conversation: str | None = None,
    priority: int = 0,
    deadline: float | None = None,
    continues: bool = False,
    stop: tuple[str, ...] = (),
    reuse: bool = True,
    prompt_logprobs: int | None = None,
    is_forgotten: bool = False,
    reasoning: Reasoning | None = None,
    pictures: Mapping[int, Piece] | None = None,
    speculates: bool = True,
    clock: Clock | None = None,
    adapters: AdapterSet = NO_ADAPTERS,
) -> Asked:
    order = EngineRequest(
        prompt=list(prompt),
        max_tokens=max_tokens,
        stop=stop,
        sampling=sampling(seed),
        conversation_id=conversation,
        priority=priority,
        deadline=deadline,
        continues=continues,
        reuse=reuse and prompt_logprobs is None,
        prompt_logprobs=prompt_logprobs,
        is_forgotten=is_forgotten,
        reasoning=reasoning,
        pictures=pictures or {},
        adapters=adapters,
        speculates=speculates,
    )
    return Asked(Generation(order, clock or Clock()))


def alone(prompt: Sequence[int], max_tokens: int, seed: int, context: int) -> tuple[list[int], Outcome]:
    """The answer, by the plainest loop."""
    tokens, answer = list(prompt), list[int]()
    if not max_tokens:
        return answer, "length"
    while True:
        token = successor(tokens, seed)
        if token == END:
            return answer, "stop"
        answer.append(token)
        if len(answer) >= max_tokens:
            return answer, "length"
        if len(tokens) >= context:
            return answer, "context_full"
        tokens.append(token)


def code(each: Asked) -> str | None:
    return None if each.heard.error is None else each.heard.error.code


def drain(engine: Engine, limit: int = 10_000) -> None:
    for _ in range(limit):
        if not engine.busy:
            return
        engine.step()
    pytest.fail("it does not come to an end")
