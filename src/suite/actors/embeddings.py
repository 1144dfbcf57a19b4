"""Answers requests for embeddings and for ranks, made in pieces between the steps of the engine."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from functools import cached_property, partial
from typing import TypeAlias, TypeVar

import anyio
import anyio.to_thread

from suite.actors.generation import GenerationResources
from suite.actors.metrics import SlotTurnover
from suite.actors.pipe import resident_bytes
from suite.actors.tracing import note_tokens, pooling
from suite.engine.embedding import Embedder, too_long
from suite.engine.engine import Engine
from suite.engine.llama_model import LlamaModel
from suite.engine.ranking import Pairs, Ranker
from suite.errors import RequestTimeout, SuiteError
from suite.messages.actor import Embed, Embedded, Rank, Ranked

T = TypeVar("T")
Inputs: TypeAlias = Sequence[Sequence[int]]


class Embeddings:
    """The requests for embeddings and ranks of one actor; they are answered in the order of arrival."""

    def __init__(self, resources: GenerationResources) -> None:
        self._resources = resources
        self._embedder: Embedder | None = None
        self._ranker: Ranker | None = None
        self._turnover = SlotTurnover(1)
        self._running: set[anyio.CancelScope] = set()
        self._end_reason: SuiteError | None = None

    async def embed(self, request: Embed) -> Embedded:
        """Make the embeddings of a request.

        Raises Overloaded, RequestTimeout when the request's time is over, the reason of `end`, or an error of
        the texts or the model: EmptyPrompt, PromptTooLong, InvalidRequest, CannotEmbed, GenerationFailed.
        """
        return await self._in_time(request.seconds, partial(self._embedded, request))

    async def rank(self, request: Rank) -> Ranked:
        """Score the documents of a request.

        Raises Overloaded, RequestTimeout when the request's time is over, the reason of `end`, or an error of
        the texts or the model: PromptTooLong, CannotRerank, GenerationFailed.
        """
        return await self._in_time(request.seconds, partial(self._ranked, request))

    def end(self, reason: SuiteError) -> None:
        """Cancel running requests and refuse new ones, each with this error."""
        self._end_reason = reason
        for scope in self._running:
            scope.cancel()

    async def _in_time(self, seconds: float, answer: Callable[[], Awaitable[T]]) -> T:
        if self._end_reason is not None:
            raise self._end_reason
        if len(self._running) > self._resources.spec.queue_limit:
            raise self._turnover.refusal(f"{len(self._running)} requests for vectors run or wait")
        with anyio.move_on_after(seconds) as scope:
            self._running.add(scope)
            try:
                return await answer()
            finally:
                self._running.discard(scope)
        if self._end_reason is not None:
            raise self._end_reason
        raise RequestTimeout(f"the vectors took more than {seconds:g} s: send fewer texts at once")

    async def _embedded(self, request: Embed) -> Embedded:
        with pooling("embed", self._resources.spec.model_id):
            inputs = await _made(self._inputs(request))
            vectors = await self._computed(partial(self._vectors, request, inputs))
            note_tokens(sum(map(len, inputs)))
        return Embedded(embeddings=vectors, tokens=sum(map(len, inputs)), resident_bytes=resident_bytes())

    async def _ranked(self, request: Rank) -> Ranked:
        with pooling("rank", self._resources.spec.model_id):
            inputs = await _made(self._pairs.all(request.query, request.documents))
            scores = await self._computed(partial(self._scores, request, inputs))
            note_tokens(sum(map(len, inputs)))
        return Ranked(scores=scores, tokens=sum(map(len, inputs)), resident_bytes=resident_bytes())

    @cached_property
    def _pairs(self) -> Pairs:
        return Pairs(self._resources.prompter.vocabulary, self._resources.spec.context_tokens)

    def _inputs(self, request: Embed) -> Iterator[list[int]]:
        """The tokens of each input, made one at a time. Raises PromptTooLong or InvalidRequest."""
        most = self._resources.spec.context_tokens
        for index, given in enumerate(request.inputs):
            tokens = self._input(given)
            if len(tokens) > most:
                raise too_long(index, len(tokens), most)
            yield tokens

    def _input(self, given: str | tuple[int, ...]) -> list[int]:
        vocabulary = self._resources.prompter.vocabulary
        if isinstance(given, str):
            return vocabulary.tokenize(given)
        vocabulary.check(given)
        return list(given)

    async def _computed(self, work: Callable[[LlamaModel, Engine], Generator[None, None, T]]) -> T:
        def timed(model: LlamaModel, engine: Engine) -> Generator[None, None, T]:
            """Runs in the engine's thread, the only one that may use llama.cpp."""
            began = self._resources.clock()
            result = yield from work(model, engine)
            self._turnover.freed(self._resources.clock() - began)
            return result

        return await asyncio.wrap_future(self._resources.engine.run_in_pieces(timed))

    def _vectors(
        self, request: Embed, inputs: Inputs, model: LlamaModel, engine: Engine
    ) -> Generator[None, None, tuple[tuple[float, ...], ...]]:
        if self._embedder is None:
            self._embedder = Embedder(model, model.settings, self._resources.engine.cores)
        return self._embedder.embed(
            inputs, request.normalize, dimensions=request.dimensions, spare_seconds=engine.spare_seconds
        )

    def _scores(
        self, request: Rank, inputs: Inputs, model: LlamaModel, engine: Engine
    ) -> Generator[None, None, tuple[float, ...]]:
        if self._ranker is None:
            self._ranker = Ranker(model, model.settings, self._resources.engine.cores)
        return self._ranker.rank(inputs, raw=request.raw, spare_seconds=engine.spare_seconds)


async def _made(inputs: Iterator[list[int]]) -> list[list[int]]:
    """The tokens of all inputs, made in a thread. It stops after the next one when nobody waits any more."""
    given_up = threading.Event()

    def make() -> list[list[int]]:
        return list(itertools.takewhile(lambda _: not given_up.is_set(), inputs))

    try:
        return await anyio.to_thread.run_sync(make, abandon_on_cancel=True)
    finally:
        given_up.set()
