"""Embeddings: a vector for each text, which is near to those of texts that mean the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence

from suite.engine.backend import Cores
from suite.engine.bindings import lib
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.pooling import Pooler, named_pooling, sees_whole_inputs
from suite.errors import CannotEmbed, EmptyPrompt, InvalidRequest, PromptTooLong

GENERAL_CONTEXT_TOKENS = 2048
"""The longest input, in tokens, of a model whose file names no pooling, unless its context is smaller."""
DECIMALS = 8
"""More precise than a 32-bit float of this magnitude, and half as long in JSON as all its digits."""


class Embedder:
    """Makes embeddings with one model. Everything blocks, and only the engine's thread may use it."""

    def __init__(self, model: LlamaModel, settings: ContextSettings, cores: Cores | None = None) -> None:
        """Allocates nothing yet. Raises CannotEmbed for a model that cannot make embeddings.

        `cores` says with how many threads each step is computed; None: with those of the settings.
        """
        handle = lib.llama_get_model(model.context)
        named = named_pooling(model)
        if lib.llama_model_has_encoder(handle) or named == lib.LLAMA_POOLING_TYPE_RANK:
            raise CannotEmbed
        self.dimensions: int = lib.llama_model_n_embd_out(handle)
        self.context_tokens = settings.context_tokens
        """The longest input, in tokens."""
        if named is None and not sees_whole_inputs(model):
            self.context_tokens = min(self.context_tokens, GENERAL_CONTEXT_TOKENS)
        self._pooler = Pooler(
            model,
            settings,
            cores,
            pooling=named or lib.LLAMA_POOLING_TYPE_MEAN,
            values=self.dimensions,
            context_tokens=self.context_tokens,
        )

    def embed(
        self,
        inputs: Sequence[Sequence[int]],
        normalize: bool = True,
        *,
        dimensions: int | None = None,
        spare_seconds: Callable[[], float] = lambda: math.inf,
    ) -> Generator[None, None, tuple[tuple[float, ...], ...]]:
        """Return a vector for each input, a list of tokens. The generator yields between two steps.

        `dimensions` cuts the vectors, which then have length 1 with `normalize`. `spare_seconds` says how
        long the next step may take (`Pooler.pool`).

        Exhaust or close it before calling `embed` again. Raises EmptyPrompt or PromptTooLong, which name the
        index of the input, InvalidRequest for more dimensions than the model has, or GenerationFailed.
        """
        self._check(inputs, dimensions)
        vectors = yield from self._pooler.pool(inputs, spare_seconds=spare_seconds)
        return tuple(_scaled(vector[:dimensions], normalize=normalize) for vector in vectors)

    def _check(self, inputs: Sequence[Sequence[int]], dimensions: int | None) -> None:
        if dimensions is not None and dimensions > self.dimensions:
            raise InvalidRequest(
                f"dimensions is {dimensions}, but the model's vectors have {self.dimensions}: send no more"
            )
        for index, tokens in enumerate(inputs):
            if not tokens:
                raise EmptyPrompt(f"input {index} is empty: send a text")
            if len(tokens) > self.context_tokens:
                raise too_long(index, len(tokens), self.context_tokens)


def too_long(index: int, tokens: int, most: int) -> PromptTooLong:
    """The error for an input with so many tokens, of a model that takes at most `most`."""
    return PromptTooLong(
        f"input {index} has {tokens} tokens and this model embeds at most {most}: shorten it, or split it"
    )


def _scaled(vector: Sequence[float], *, normalize: bool) -> tuple[float, ...]:
    """The vector, scaled to length 1 with `normalize`."""
    length = math.hypot(*vector)
    scale = 1 / length if normalize and length else 1.0
    return tuple(round(value * scale, DECIMALS) for value in vector)
