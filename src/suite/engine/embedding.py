"""Embeddings of texts, from a second context over the weights of a loaded model.

The context is made at the first request. It has its own sequences and does not disturb conversations. From
then on it costs a KV cache of `context_tokens` (at most 2048 for a model that was not made for embeddings,
none for an encoder) and a compute buffer. In a generating model this buffer has a row of logits for each
token of a step, even though nobody needs them; `LOGITS_BYTES` limits these rows, which exist twice, by making
steps short. Measured with short texts: 166 MiB for Gemma 3 270M, 111 MiB for SmolLM2 135M.

Short inputs share a step. A step is one micro-batch, because llama.cpp pools within a micro-batch. For an
input that takes several steps, each step gives the mean (or the first, or the last) of its tokens, and this
module combines them. A model without causal attention embeds an input in one step. No other step has more
than `prompt_step_tokens` tokens, because running generations wait for it.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

from suite.engine.backend import Cores
from suite.engine.bindings import last_messages, lib
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.vocabulary import Vocabulary
from suite.errors import CannotEmbed, EmptyPrompt, GenerationFailed, PromptTooLong

GENERAL_CONTEXT_TOKENS = 2048
"""The longest input, in tokens, of a model whose file names no pooling, unless its context is smaller."""
STEP_TOKENS = 512
LOGITS_BYTES = 64 << 20
"""The most memory for the logits of one step."""
SEQUENCES = 32
"""The most inputs in one step."""
DECIMALS = 8
"""More precise than a 32-bit float of this magnitude, and half as long in JSON as all its digits."""

_LOGIT_BYTES = 4
_LEAST_STEP_TOKENS = 32


class _Piece(NamedTuple):
    """The part of an input that is in one step."""

    input: int
    start: int
    end: int


class Embedder:
    """Makes embeddings with one model. Everything blocks, and only the engine's thread may use it."""

    def __init__(self, model: LlamaModel, settings: ContextSettings, cores: Cores | None = None) -> None:
        """Allocates nothing yet. Raises CannotEmbed for a model that cannot make embeddings.

        `cores` says with how many threads each step is computed; None: with those of the settings.
        """
        self._model = handle = lib.llama_get_model(model.context)
        named = _named_pooling(handle)
        if lib.llama_model_has_encoder(handle) or named == lib.LLAMA_POOLING_TYPE_RANK:
            raise CannotEmbed
        self._pooling: int = named or lib.LLAMA_POOLING_TYPE_MEAN
        self._threads = settings.threads
        self._cores = cores
        whole = not lib.llama_get_causal_attn(model.context)
        self.context_tokens = settings.context_tokens
        """The longest input, in tokens."""
        if named is None and not whole:
            self.context_tokens = min(self.context_tokens, GENERAL_CONTEXT_TOKENS)
        # Sequences of different lengths cannot be one micro-batch where the model keeps a state of each.
        recurrent = lib.llama_model_is_recurrent(handle) or lib.llama_model_is_hybrid(handle)
        self._sequences = 1 if recurrent else SEQUENCES
        longest = min(self.context_tokens, settings.prompt_step_tokens)
        self._shared_tokens = longest if whole else _step_tokens(longest, model.vocabulary)
        """The most tokens of several inputs in one step."""
        step = self.context_tokens if whole else self._shared_tokens
        # llama.cpp aborts over a micro-batch that is no multiple of the sequences.
        self._step_tokens = -(-step // self._sequences) * self._sequences
        self.dimensions: int = lib.llama_model_n_embd_out(handle)
        self._context: int | None = None
        self._batch: lib.llama_batch

    def embed(
        self, inputs: Sequence[Sequence[int]], normalize: bool = True
    ) -> Generator[None, None, tuple[tuple[float, ...], ...]]:
        """Return a vector for each input, a list of tokens. The generator yields between two steps.

        Exhaust or close it before calling `embed` again. Raises EmptyPrompt or PromptTooLong, which name the
        index of the input, or GenerationFailed.
        """
        self._check(inputs)
        context = self._opened()
        vectors: list[tuple[float, ...]] = []
        vector = _Vector(self.dimensions, self._pooling)
        for number, step in enumerate(self._steps(inputs)):
            if number:
                yield
            self._run(context, inputs, step)
            for sequence, piece in enumerate(step):
                values = lib.llama_get_embeddings_seq(context, sequence)
                if not values:
                    raise GenerationFailed("llama.cpp gave no embedding")
                vector.add(values[: self.dimensions], piece.end - piece.start)
                if piece.end == len(inputs[piece.input]):
                    vectors.append(vector.finished(normalize=normalize))
                    vector = _Vector(self.dimensions, self._pooling)
        return tuple(vectors)

    def _check(self, inputs: Sequence[Sequence[int]]) -> None:
        for index, tokens in enumerate(inputs):
            if not tokens:
                raise EmptyPrompt(f"input {index} is empty: send a text")
            if len(tokens) > self.context_tokens:
                raise PromptTooLong(
                    f"input {index} has {len(tokens)} tokens and this model embeds at most "
                    f"{self.context_tokens}: shorten it, or split it"
                )

    def _opened(self) -> int:
        if self._context is None:
            params = lib.llama_context_default_params()
            params.n_ctx = max(self.context_tokens, self._step_tokens)
            params.n_batch = params.n_ubatch = self._step_tokens
            params.n_seq_max = self._sequences
            params.n_threads = params.n_threads_batch = self._threads
            params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_AUTO
            params.kv_unified = True
            params.embeddings = True
            params.pooling_type = self._pooling
            self._context = lib.llama_init_from_model(self._model, params)
            if not self._context:
                raise GenerationFailed(
                    "llama.cpp could not make a context for embeddings: "
                    f"{last_messages() or 'it gave no reason'}"
                )
            self._batch = lib.llama_batch_init(self._step_tokens, 0, 1)
        return self._context

    def _steps(self, inputs: Sequence[Sequence[int]]) -> Iterator[list[_Piece]]:
        """Divide the inputs into steps, in order. Short inputs share a step; long ones take several."""
        step: list[_Piece] = []
        used = 0
        for index, tokens in enumerate(inputs):
            length = len(tokens)
            if step and (used + length > self._shared_tokens or len(step) == self._sequences):
                yield step
                step, used = [], 0
            if length <= self._step_tokens:
                step.append(_Piece(index, 0, length))
                used += length
                continue
            for start in range(0, length, self._step_tokens):
                yield [_Piece(index, start, min(length, start + self._step_tokens))]
        if step:
            yield step

    def _run(self, context: int, inputs: Sequence[Sequence[int]], step: list[_Piece]) -> None:
        memory = lib.llama_get_memory(context)
        if step[0].start == 0 and memory is not None:  # an encoder has none
            lib.llama_memory_clear(memory, False)
        batch, count = self._batch, 0
        for sequence, piece in enumerate(step):
            for position in range(piece.start, piece.end):
                batch.token[count] = inputs[piece.input][position]
                batch.pos[count] = position  # type: ignore[call-overload]  # annotated as of arrays
                batch.n_seq_id[count] = 1
                batch.seq_id[count][0] = sequence
                batch.logits[count] = 1
                count += 1
        batch.n_tokens = count
        if self._cores is not None:
            threads = self._cores.due(reading=True, priority=0)
            lib.llama_set_n_threads(context, threads, threads)
        result = lib.llama_decode(context, batch)
        if result != 0:
            raise GenerationFailed(
                f"llama.cpp could not embed (code {result}): {last_messages()}".rstrip(": ")
            )


class _Vector:
    """Combines the vectors of an input's pieces into one."""

    def __init__(self, dimensions: int, pooling: int) -> None:
        self._pooling = pooling
        self._sum = [0.0] * dimensions
        self._tokens = 0

    def add(self, values: list[float], tokens: int) -> None:
        """Add the vector of the next piece, which has this many tokens."""
        if self._pooling == lib.LLAMA_POOLING_TYPE_LAST or not self._tokens:
            self._sum, self._tokens = values, tokens
        elif self._pooling == lib.LLAMA_POOLING_TYPE_MEAN:
            before, self._tokens = self._tokens, self._tokens + tokens
            share = tokens / self._tokens
            rest = before / self._tokens
            self._sum = [rest * old + share * new for old, new in zip(self._sum, values, strict=True)]

    def finished(self, *, normalize: bool) -> tuple[float, ...]:
        """The vector, scaled to length 1 with `normalize`. Raises GenerationFailed if it is not finite."""
        length = math.hypot(*self._sum)
        if not math.isfinite(length):
            raise GenerationFailed(
                "the model's embedding is not a number: it is damaged, or not made for this"
            )
        scale = 1 / length if normalize and length else 1.0
        return tuple(round(value * scale, DECIMALS) for value in self._sum)


def _named_pooling(model: int) -> int | None:
    """The pooling type in the model's file; None if it has none."""
    architecture = _metadata(model, "general.architecture")
    name = _metadata(model, f"{architecture}.pooling_type")
    return int(name) if name is not None and name.isdigit() else None


def _metadata(model: int, key: str) -> str | None:
    buffer = ctypes.create_string_buffer(64)
    length = lib.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return None if length < 0 else buffer.value.decode("utf-8", "replace")


def _step_tokens(context_tokens: int, vocabulary: Vocabulary) -> int:
    fitting = LOGITS_BYTES // (_LOGIT_BYTES * vocabulary.size)
    return min(context_tokens, STEP_TOKENS, max(_LEAST_STEP_TOKENS, fitting))
