"""Clients of one model that ask one thing after the other, and how they were served."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import NamedTuple

import anyio

from answers import Answer, Server
from harness import percentile
from prompts import scene
from suite.errors import SuiteError
from suite.tasks import background

PROMPT_WORDS, ANSWER_TOKENS = 48, 24
PAUSE_SECONDS = 0.2
"""Between an answer and the next question."""


class Served(NamedTuple):
    """How well users were served."""

    first_token_p50_ms: float
    first_token_p95_ms: float
    tokens_per_second: float
    longest_gap_ms: float
    """The longest that any of them has waited for the next text, the first one included."""
    answered: int
    failed: int


class Users:
    """Users who go on asking for as long as they are there."""

    def __init__(
        self, server: Server, count: int, seed: str, *, pause_seconds: float = PAUSE_SECONDS
    ) -> None:
        """What they ask is new, and the same for the same `seed`."""
        self._server = server
        self._count = count
        self._seed = seed
        self._pause_seconds = pause_seconds
        self._answers: list[Answer] = []
        self._failed = 0
        self._asked = 0

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Have them ask during the block; whose answer is not there at its end waits for it."""
        over = anyio.Event()
        async with background() as tasks:
            ended = [anyio.Event() for _ in range(self._count)]
            for each in ended:
                tasks.start_soon(self._go_on_asking, over, each)
            yield
            over.set()
            for each in ended:
                await each.wait()

    async def _go_on_asking(self, over: anyio.Event, ended: anyio.Event) -> None:
        while not over.is_set():
            self._asked += 1
            answer = self._server(scene(f"{self._seed} {self._asked}", PROMPT_WORDS), ANSWER_TOKENS)
            try:
                await answer.read()
            except SuiteError as error:
                self._failed += 1
                print(f"a user's request has failed: {error.code}: {error}", file=sys.stderr)
            else:
                self._answers.append(answer)
            await anyio.sleep(self._pause_seconds)
        ended.set()

    def served(self, begin: float, end: float) -> Served:
        """How those were served who had asked between these times (`time.perf_counter`)."""
        answers = [each for each in self._answers if begin <= each.asked < end and each.tokens]
        assert answers, "no user has asked anything in that time"
        first_tokens = [each.first_token_ms for each in answers]
        seconds = max(each.ended for each in answers) - min(each.asked for each in answers)
        return Served(
            first_token_p50_ms=percentile(first_tokens, 50),
            first_token_p95_ms=percentile(first_tokens, 95),
            tokens_per_second=sum(each.tokens for each in answers) / seconds,
            longest_gap_ms=max(map(longest_gap_ms, answers)),
            answered=len(answers),
            failed=self._failed,
        )


def longest_gap_ms(answer: Answer) -> float:
    """How long its reader has waited for the next text at most."""
    gaps = (after - before for before, after in pairwise((answer.asked, *answer.times)))
    return 1000 * max(gaps, default=0.0)
