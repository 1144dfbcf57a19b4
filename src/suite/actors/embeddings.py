"""Answers requests for embeddings, made in pieces between the steps of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from functools import partial

import anyio
import anyio.to_thread

from suite.actors.generation import GenerationResources
from suite.actors.metrics import SlotTurnover
from suite.actors.pipe import resident_bytes
from suite.engine.embedding import Embedder
from suite.engine.engine import Engine
from suite.engine.llama_model import LlamaModel
from suite.errors import RequestTimeout, SuiteError
from suite.messages.actor import Embed, Embedded


class Embeddings:
    """The requests for embeddings of one actor; they are answered in the order of arrival."""

    def __init__(self, resources: GenerationResources) -> None:
        self._resources = resources
        self._embedder: Embedder | None = None
        self._turnover = SlotTurnover(1)
        self._running: set[anyio.CancelScope] = set()
        self._end_reason: SuiteError | None = None

    async def answer(self, request: Embed) -> Embedded:
        """Make the embeddings of a request.

        Raises Overloaded, RequestTimeout when the request's time is over, the reason of `end`, or an error of
        the texts or the model: EmptyPrompt, PromptTooLong, CannotEmbed, GenerationFailed.
        """
        if self._end_reason is not None:
            raise self._end_reason
        if len(self._running) > self._resources.spec.queue_limit:
            raise self._turnover.refusal(f"{len(self._running)} requests for vectors run or wait")
        with anyio.move_on_after(request.seconds) as scope:
            self._running.add(scope)
            try:
                return await self._embedded(request)
            finally:
                self._running.discard(scope)
        if self._end_reason is not None:
            raise self._end_reason
        raise RequestTimeout(f"the vectors took more than {request.seconds:g} s: send fewer texts at once")

    def end(self, reason: SuiteError) -> None:
        """Cancel running requests and refuse new ones, each with this error."""
        self._end_reason = reason
        for scope in self._running:
            scope.cancel()

    async def _embedded(self, request: Embed) -> Embedded:
        tokenize = self._resources.prompter.vocabulary.tokenize
        inputs = await anyio.to_thread.run_sync(
            lambda: [tokenize(each) if isinstance(each, str) else list(each) for each in request.inputs],
            abandon_on_cancel=True,
        )
        vectors = self._resources.engine.run_in_pieces(partial(self._vectors, inputs, request.normalize))
        return Embedded(
            embeddings=await asyncio.wrap_future(vectors),
            tokens=sum(map(len, inputs)),
            resident_bytes=resident_bytes(),
        )

    def _vectors(
        self, inputs: list[list[int]], normalize: bool, model: LlamaModel, engine: Engine
    ) -> Generator[None, None, tuple[tuple[float, ...], ...]]:
        """Make the vectors. Runs in the engine's thread, the only one that may use llama.cpp."""
        began = self._resources.clock()
        if self._embedder is None:
            self._embedder = Embedder(model, model.settings, self._resources.engine.cores)
        vectors = yield from self._embedder.embed(inputs, normalize, spare_seconds=engine.spare_seconds)
        self._turnover.freed(self._resources.clock() - began)
        return vectors
