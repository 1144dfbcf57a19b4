"""A model with a context and nothing else of ours: what samplers are tested on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from suite.engine.bindings import lib
from suite.engine.sampler import Sampler
from suite.engine.vocabulary import Vocabulary


class Bare:
    """One sequence in one context of llama.cpp."""

    def __init__(self, path: Path, context_tokens: int) -> None:
        lib.llama_backend_init()
        self.path = str(path)
        self._model = lib.llama_model_load_from_file(self.path.encode(), lib.llama_model_default_params())
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = context_tokens, 512, 1, 1
        self.context: int = lib.llama_init_from_model(self._model, params)
        self.vocabulary = Vocabulary(self._model)

    def decode(self, tokens: Sequence[int]) -> None:
        array = (lib.llama_token * len(tokens))(*tokens)
        assert lib.llama_decode(self.context, lib.llama_batch_get_one(array, len(tokens))) == 0

    def begin(self, text: str) -> list[int]:
        """Forget everything and decode a prompt."""
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        tokens = self.vocabulary.tokenize(text)
        self.decode(tokens)
        return tokens

    def logits(self) -> np.ndarray:
        return np.array(lib.llama_get_logits_ith(self.context, -1)[: self.vocabulary.size], np.float32)

    def tokens(self, sampler: Sampler, prompt: str, count: int) -> list[int]:
        """The tokens after a prompt, up to where the model ends."""
        sampler.accept_prompt(self.begin(prompt))
        found: list[int] = []
        while len(found) < count and not self.vocabulary.is_eog(token := sampler.sample(self.context)):
            found.append(token)
            self.decode([token])
        return found

    def text(self, sampler: Sampler, prompt: str, count: int) -> str:
        pieces = [self.vocabulary.piece(token) for token in self.tokens(sampler, prompt, count)]
        return b"".join(pieces).decode()

    def free(self) -> None:
        lib.llama_free(self.context)
        lib.llama_model_free(self._model)


@contextmanager
def bare(path: Path, context_tokens: int = 512) -> Iterator[Bare]:
    found = Bare(path, context_tokens)
    try:
        yield found
    finally:
        found.free()
