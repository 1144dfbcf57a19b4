"""One vector for each input: embeddings or scores, from a second context over the weights of a loaded model.

The context is made at the first request. It has its own sequences and does not disturb conversations. From
then on it costs a KV cache of `context_tokens` (at most 2048 for a model that was not made for embeddings,
none for an encoder) and a compute buffer. In a generating model this buffer has a row of logits for each
token of a step, even though nobody needs them; `LOGITS_BYTES` limits these rows, which exist twice, by making
steps short. Measured with short texts: 166 MiB for Gemma 3 270M, 111 MiB for SmolLM2 135M.

Short inputs share a step. A step is one micro-batch, because llama.cpp pools within a micro-batch. For an
input that takes several steps, each step gives the mean (or the first, or the last) of its tokens, and this
module combines them. A model without causal attention reads an input in one step. No other step has more
than `prompt_step_tokens` tokens, and while running generations wait for it, none takes longer than it may.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

from suite.engine.backend import Cores
from suite.engine.bindings import last_messages, lib
from suite.engine.llama_model import ContextSettings, LlamaModel, flash_attention_type
from suite.engine.step_time import Piece as _TimedPiece
from suite.engine.step_time import StepTime, StepWork
from suite.engine.vocabulary import Vocabulary
from suite.errors import GenerationFailed

STEP_TOKENS = 512
LOGITS_BYTES = 64 << 20
"""The most memory for the logits of one step."""
SEQUENCES = 32
"""The most inputs in one step."""

_LOGIT_BYTES = 4
_LEAST_STEP_TOKENS = 32
_LEAST_TIMED_TOKENS = 8
"""A step has so many tokens however slow they are: each step has costs of its own."""
_OF_THE_END = (lib.LLAMA_POOLING_TYPE_LAST, lib.LLAMA_POOLING_TYPE_RANK)
"""What these make of an input's last piece is the vector of all of it."""


class _Piece(NamedTuple):
    """The part of an input that is in one step."""

    input: int
    start: int
    end: int


class Pooler:
    """Makes vectors with one model. Everything blocks, and only the engine's thread may use it."""

    def __init__(
        self,
        model: LlamaModel,
        settings: ContextSettings,
        cores: Cores | None,
        *,
        pooling: int,
        values: int,
        context_tokens: int,
    ) -> None:
        """Allocates nothing yet.

        `pooling` is llama.cpp's type, which gives this many `values` for an input; `context_tokens` is the
        longest input. `cores` says with how many threads each step is computed; None: with those of the
        settings.
        """
        self._model = handle = lib.llama_get_model(model.context)
        self._pooling = pooling
        self._values = values
        self._settings = settings
        self._cores = cores
        self._is_whole = sees_whole_inputs(model)
        self.context_tokens = context_tokens
        """The longest input, in tokens."""
        # Sequences of different lengths cannot be one micro-batch where the model keeps a state of each.
        recurrent = lib.llama_model_is_recurrent(handle) or lib.llama_model_is_hybrid(handle)
        self._sequences = 1 if recurrent else SEQUENCES
        longest = min(context_tokens, settings.prompt_step_tokens)
        self._shared_tokens = longest if self._is_whole else _step_tokens(longest, model.vocabulary)
        """The most tokens of several inputs in one step."""
        step = context_tokens if self._is_whole else self._shared_tokens
        # llama.cpp aborts over a micro-batch that is no multiple of the sequences.
        self._step_tokens = -(-step // self._sequences) * self._sequences
        self._step_time = StepTime()
        self._context: int | None = None
        self._batch: lib.llama_batch

    def pool(
        self, inputs: Sequence[Sequence[int]], *, spare_seconds: Callable[[], float] = lambda: math.inf
    ) -> Generator[None, None, list[list[float]]]:
        """Return the values of each input, a list of tokens. The generator yields between two steps.

        `spare_seconds` says how long the next step may take. A step of inputs that must not be divided may
        take longer, and so may one of a few tokens. No input may be empty, or longer than the context.

        Exhaust or close it before calling `pool` again. Raises GenerationFailed.
        """
        context = self._opened()
        vectors: list[list[float]] = []
        vector = _Vector(self._pooling)
        index = start = 0
        while index < len(inputs):
            if vectors or start:
                yield
            step = self._step(inputs, index, start, spare_seconds())
            self._run(context, inputs, step)
            for sequence, piece in enumerate(step):
                values = lib.llama_get_embeddings_seq(context, sequence)
                if not values:
                    raise GenerationFailed("llama.cpp gave no embedding")
                vector.add(values[: self._values], piece.end - piece.start)
                if piece.end == len(inputs[piece.input]):
                    vectors.append(vector.finished())
                    vector = _Vector(self._pooling)
            index = len(vectors)
            start = 0 if step[-1].input < index else step[-1].end
        return vectors

    def _opened(self) -> int:
        if self._context is None:
            params = lib.llama_context_default_params()
            params.n_ctx = max(self.context_tokens, self._step_tokens)
            params.n_batch = params.n_ubatch = self._step_tokens
            params.n_seq_max = self._sequences
            params.n_threads = params.n_threads_batch = self._settings.threads
            params.flash_attn_type = flash_attention_type(self._settings)
            if self._is_whole:  # all scores of an input at once may take too much memory
                params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_AUTO
            params.kv_unified = True
            params.embeddings = True
            params.pooling_type = self._pooling
            self._context = lib.llama_init_from_model(self._model, params)
            if not self._context:
                raise GenerationFailed(
                    f"llama.cpp could not make a second context: {last_messages() or 'it gave no reason'}"
                )
            self._batch = lib.llama_batch_init(self._step_tokens, 0, 1)
        return self._context

    def _step(self, inputs: Sequence[Sequence[int]], index: int, start: int, seconds: float) -> list[_Piece]:
        """The next step, from a position of an input on. Short inputs share one; long ones take several."""
        fitting = self._fitting(start, seconds)
        length, most = len(inputs[index]), min(self._step_tokens, fitting)
        if start or (length > most and not self._is_whole):
            return [_Piece(index, start, min(length, start + most))]
        step: list[_Piece] = [_Piece(index, 0, length)]
        used, most = length, min(self._shared_tokens, fitting)
        for other in range(index + 1, min(index + self._sequences, len(inputs))):
            used += len(inputs[other])
            if used > most:
                break
            step.append(_Piece(other, 0, len(inputs[other])))
        return step

    def _fitting(self, start: int, seconds: float) -> int:
        """How many tokens, from a position on, a step may have to take no longer than this."""
        if seconds == math.inf:
            return self._step_tokens
        if not self._step_time.is_measured:
            return _LEAST_STEP_TOKENS
        return max(_LEAST_TIMED_TOKENS, self._step_time.tokens_within(seconds, start))

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
        began = time.perf_counter()
        result = lib.llama_decode(context, batch)
        lib.llama_synchronize(context)
        tokens = [_TimedPiece(piece.start, piece.end - piece.start) for piece in step]
        self._step_time.learn(StepWork(0, tokens), time.perf_counter() - began)
        if result != 0:
            raise GenerationFailed(
                f"llama.cpp could not pool (code {result}): {last_messages()}".rstrip(": ")
            )


class _Vector:
    """Combines the vectors of an input's pieces into one."""

    def __init__(self, pooling: int) -> None:
        self._pooling = pooling
        self._sum: list[float] = []
        self._tokens = 0

    def add(self, values: list[float], tokens: int) -> None:
        """Add the vector of the next piece, which has this many tokens."""
        if self._pooling in _OF_THE_END or not self._tokens:
            self._sum, self._tokens = values, tokens
        elif self._pooling == lib.LLAMA_POOLING_TYPE_MEAN:
            before, self._tokens = self._tokens, self._tokens + tokens
            share = tokens / self._tokens
            rest = before / self._tokens
            self._sum = [rest * old + share * new for old, new in zip(self._sum, values, strict=True)]

    def finished(self) -> list[float]:
        """The vector. Raises GenerationFailed if it is not finite."""
        if not all(map(math.isfinite, self._sum)):
            raise GenerationFailed(
                "the model's embedding is not a number: it is damaged, or not made for this"
            )
        return self._sum


def sees_whole_inputs(model: LlamaModel) -> bool:
    """Whether the model has no causal attention, so that an input cannot be divided."""
    return not lib.llama_get_causal_attn(model.context)


def named_pooling(model: LlamaModel) -> int | None:
    """The pooling type in the model's file; None if it has none."""
    name = _metadata(lib.llama_get_model(model.context), f"{architecture(model)}.pooling_type")
    return int(name) if name is not None and name.isdigit() else None


def architecture(model: LlamaModel) -> str:
    """The architecture in the model's file, such as ``bert``."""
    return _metadata(lib.llama_get_model(model.context), "general.architecture") or ""


def _metadata(model: int, key: str) -> str | None:
    buffer = ctypes.create_string_buffer(64)
    length = lib.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return None if length < 0 else buffer.value.decode("utf-8", "replace")


def _step_tokens(context_tokens: int, vocabulary: Vocabulary) -> int:
    fitting = LOGITS_BYTES // (_LOGIT_BYTES * vocabulary.size)
    return min(context_tokens, STEP_TOKENS, max(_LEAST_STEP_TOKENS, fitting))
