"""Choosing the next token: llama.cpp's sampler chain for one generation."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import msgspec

from suite.engine.bindings import lib

_PENALTY_TOKENS = 64
"""How far back a repeat penalty looks."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of one generation; their meaning is that of the request's fields of these names."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float
    seed: int


class Sampler:
    """The chain of one generation: penalties, top-k, top-p, min-p, temperature, then a draw with the seed."""

    def __init__(self, sampling: Sampling, vocabulary_size: int) -> None:
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self._penalizes = sampling.repeat_penalty != 1.0
        if self._penalizes:
            self._add(
                lib.llama_sampler_init_penalties(
                    vocabulary_size, _PENALTY_TOKENS, sampling.repeat_penalty, 0.0, 0.0
                )
            )
        if sampling.temperature <= 0:
            self._add(lib.llama_sampler_init_greedy())
            return
        if sampling.top_k > 0:
            self._add(lib.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1:
            self._add(lib.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            self._add(lib.llama_sampler_init_min_p(sampling.min_p, 1))
        self._add(lib.llama_sampler_init_temp(sampling.temperature))
        # llama.cpp takes its largest seed for a wish for a random one.
        self._add(lib.llama_sampler_init_dist(sampling.seed % lib.LLAMA_DEFAULT_SEED))

    def _add(self, sampler: int) -> None:
        lib.llama_sampler_chain_add(self._chain, sampler)

    def remember(self, prompt: Sequence[int]) -> None:
        """Let the repeat penalty count the end of the prompt as well."""
        if self._penalizes:
            for token in prompt[-_PENALTY_TOKENS:]:
                lib.llama_sampler_accept(self._chain, token)

    def next(self, context: int) -> int:
        """The next token, from the logits that were decoded last; the chain remembers it."""
        token: int = lib.llama_sampler_sample(self._chain, context, -1)
        return token

    def __enter__(self) -> Sampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lib.llama_sampler_free(self._chain)
