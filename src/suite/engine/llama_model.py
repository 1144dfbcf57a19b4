"""One model in memory with its context: load, tokenize, decode, forget. Everything here blocks.

The context is unified (`kv_unified`) and its window cache whole (`swa_full`): only so is it right to share
and cut back sequences of any model, and fast to decode them in any order. The price is a full-size cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import msgspec

from suite.engine.backend import Part
from suite.engine.bindings import last_messages, lib
from suite.engine.sampler import Sampler, Sampling
from suite.engine.snapshots.file import Payload, uninitialised
from suite.engine.vocabulary import Vocabulary
from suite.errors import GenerationFailed, LoadFailed
from suite.messages.logprobs import TokenLogprobs

_MICRO_BATCH = 512
"""Tokens that are computed at once; more costs memory and wins nothing on a CPU."""


class ContextSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is loaded."""

    context_tokens: int
    """How long one sequence may get."""
    cache_tokens: int
    """What all sequences have room for together."""
    batch_tokens: int
    prompt_step_tokens: int = 256
    """Of prompts, decoded in a step at most while answers run."""
    gpu_layers: int
    """-1: all of them."""
    threads: int
    slots: int


class LlamaModel:
    """A loaded model. All but its vocabulary belongs to the one thread that decodes."""

    def __init__(self, model: int, context: int, settings: ContextSettings) -> None:
        self.context = context
        self.settings = settings
        self.vocabulary = Vocabulary(model)
        self.can_share = not (lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model))
        self._model = model
        self._window: int = lib.llama_model_n_swa(model)
        self._memory = lib.llama_get_memory(context)
        self._batch = _Batch(settings.batch_tokens, settings.slots)

    @property
    def words(self) -> Vocabulary:
        """Its vocabulary."""
        return self.vocabulary

    @property
    def context_tokens(self) -> int:
        """How long one sequence may get."""
        return self.settings.context_tokens

    @property
    def cache_tokens(self) -> int:
        """What all sequences have room for together."""
        return self.settings.cache_tokens

    @property
    def batch_tokens(self) -> int:
        """How many tokens are decoded at once at most."""
        return self.settings.batch_tokens

    @classmethod
    def load(cls, path: str, settings: ContextSettings, progress: Callable[[float], None]) -> LlamaModel:
        """Load a GGUF file. `progress` gets the fraction that is done.

        Raises LoadFailed with llama.cpp's own words.
        """
        lib.llama_backend_init()

        def report(fraction: float, _user_data: object) -> bool:
            progress(fraction)
            return True

        params = lib.llama_model_default_params()
        params.n_gpu_layers = settings.gpu_layers
        params.progress_callback = callback = lib.llama_progress_callback(report)
        last_messages()
        model = lib.llama_model_load_from_file(path.encode(), params)
        del callback  # llama.cpp used it until here
        if not model:
            raise LoadFailed(f"llama.cpp could not load the model: {last_messages() or 'it gave no reason'}")
        context = lib.llama_init_from_model(model, _context_params(settings))
        if not context:
            lib.llama_model_free(model)
            raise LoadFailed(
                f"llama.cpp could not make a context of {settings.cache_tokens} tokens "
                f"(set a smaller context_length): {last_messages() or 'it gave no reason'}"
            )
        loaded = cls(model, context, settings)
        loaded._warm_up()
        return loaded

    def _warm_up(self) -> None:
        """Decode one token, so that weights and buffers are in memory before the first request is."""
        lib.llama_set_warmup(self.context, True)
        self.decode([Part(0, [0], 0, wants_logits=True)])
        lib.llama_set_warmup(self.context, False)
        lib.llama_memory_clear(self._memory, True)

    def decode(self, parts: Sequence[Part]) -> bool:
        """Decode tokens of several sequences, at most `batch_tokens` in all.

        False: the cache has no room for them, and nothing has changed. Raises GenerationFailed, after which
        what the sequences hold is unknown.
        """
        result = lib.llama_decode(self.context, self._batch.fill(parts))
        if result == 0:
            return True
        if result == 1:
            return False
        raise GenerationFailed(f"llama.cpp could not decode (code {result}): {last_messages()}".rstrip(": "))

    def source(self, sampling: Sampling) -> Source:
        """What chooses the tokens of a generation."""
        return Source(Sampler(sampling, self.vocabulary), self.context)

    def cut(self, sequence: int, position: int) -> bool:
        """Forget a sequence from a position on. False: this model cannot forget a part, and has not."""
        if 0 < position < self.shortest(sequence):
            return False
        return bool(lib.llama_memory_seq_rm(self._memory, sequence, position, -1))

    def length(self, sequence: int) -> int:
        """How many tokens a sequence has in memory, by llama.cpp's own account."""
        last: int = lib.llama_memory_seq_pos_max(self._memory, sequence)
        return last + 1

    def share(self, source: int, target: int, tokens: int) -> None:
        """Let the empty sequence `target` begin with the first tokens of `source`, without copying them.

        It stays empty where `source` cannot be cut back to them.
        """
        if tokens < self.shortest(source):
            return
        lib.llama_memory_seq_cp(self._memory, source, target, 0, tokens)

    def shortest(self, sequence: int) -> int:
        """To how few tokens a sequence can be cut back and be right; it can be emptied anyway.

        What a window no longer sees is not in a saved state, so where that was restored a sequence that is
        cut back would miss what the window then sees, and say wrong things without a word about it.
        """
        length = self.length(sequence)
        if not self.can_share:
            return length
        earliest: int = lib.llama_memory_seq_pos_min(self._memory, sequence)
        return min(length, earliest + self._window) if earliest > 0 else 0

    def shortest_saved(self, sequence: int) -> int:
        """To how few tokens its saved state can be cut back once it is restored."""
        length = self.length(sequence)
        return length if 0 < self._window < length else self.shortest(sequence)

    def save(self, sequence: int) -> Payload:
        """The state of a sequence, for `restore`; empty when llama.cpp could not give it."""
        size = lib.llama_state_seq_get_size(self.context, sequence)
        state = uninitialised(size)
        written = lib.llama_state_seq_get_data(self.context, _bytes_of(state), size, sequence)
        return state[:written]

    def restore(self, sequence: int, payload: Payload) -> bool:
        """Fill a sequence with a saved state. False: it does not fit, and the sequence is empty.

        Of this model, these settings and unharmed: llama.cpp takes flipped bits for good ones.
        """
        read: int = lib.llama_state_seq_set_data(self.context, _bytes_of(payload), len(payload), sequence)
        return read > 0

    def logits(self) -> list[float]:
        """The logits of the last decoded token."""
        values: list[float] = lib.llama_get_logits_ith(self.context, -1)[: self.vocabulary.size]
        return values

    def free(self) -> None:
        """Give the memory back. The model cannot be used afterwards."""
        lib.llama_free(self.context)
        lib.llama_model_free(self._model)


def _context_params(settings: ContextSettings) -> lib.llama_context_params:
    params: lib.llama_context_params = lib.llama_context_default_params()
    params.n_ctx = settings.cache_tokens
    params.n_batch = settings.batch_tokens
    params.n_ubatch = min(settings.batch_tokens, _MICRO_BATCH)
    params.n_seq_max = settings.slots
    params.n_threads = params.n_threads_batch = settings.threads
    params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_AUTO
    params.kv_unified = True
    params.swa_full = True
    return params


def _bytes_of(payload: Payload) -> ctypes._Pointer[ctypes.c_uint8]:
    """A payload as llama.cpp takes it, not copied."""
    import numpy as np  # with the first state, not before the load

    return np.frombuffer(payload, np.uint8).ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


class Source:
    """The sampler of one generation, at the logits of one context."""

    def __init__(self, sampler: Sampler, context: int) -> None:
        self.sampler = sampler
        self._context = context

    @property
    def logprobs(self) -> TokenLogprobs | None:
        """How likely the last token was; None if nobody asked."""
        return self.sampler.last_logprobs

    def remember(self, prompt: Sequence[int]) -> None:
        """Let penalties count the end of the prompt as well."""
        self.sampler.remember(prompt)

    def next(self, row: int) -> int:
        """The next token, from the logits of this row of the last batch."""
        return self.sampler.next(self._context, row)

    def close(self) -> None:
        """Give back what it holds."""
        self.sampler.close()


class _Batch:
    """One llama_batch over arrays of its own, filled anew for each step."""

    def __init__(self, size: int, sequences: int) -> None:
        pointer = ctypes.POINTER(lib.llama_seq_id)
        self._tokens = (lib.llama_token * size)()
        self._positions = (lib.llama_pos * size)()
        self._wants_logits = (ctypes.c_int8 * size)()
        self._counts = (ctypes.c_int32 * size)(*[1] * size)
        self._ids = [lib.llama_seq_id(sequence) for sequence in range(sequences)]
        self._of_sequence = [ctypes.pointer(id) for id in self._ids]
        self._sequences = (pointer * size)()
        self._batch = lib.llama_batch(
            n_tokens=0,
            token=ctypes.cast(self._tokens, ctypes.POINTER(lib.llama_token)),
            embd=None,
            pos=ctypes.cast(self._positions, ctypes.POINTER(lib.llama_pos)),
            n_seq_id=ctypes.cast(self._counts, ctypes.POINTER(ctypes.c_int32)),
            seq_id=ctypes.cast(self._sequences, ctypes.POINTER(pointer)),
            logits=ctypes.cast(self._wants_logits, ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, parts: Sequence[Part]) -> lib.llama_batch:
        end = 0
        for sequence, tokens, position, wants_logits in parts:
            begin, end = end, end + len(tokens)
            if end - begin == 1:
                self._tokens[begin] = tokens[0]
                self._positions[begin] = position
                self._sequences[begin] = self._of_sequence[sequence]
                self._wants_logits[begin] = wants_logits
                continue
            self._tokens[begin:end] = [*tokens]
            self._positions[begin:end] = [*range(position, position + end - begin)]
            self._sequences[begin:end] = [self._of_sequence[sequence]] * (end - begin)
            self._wants_logits[begin:end] = [0] * (end - begin)
            self._wants_logits[end - 1] = int(wants_logits)
        self._batch.n_tokens = end
        return self._batch
