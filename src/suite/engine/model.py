"""One model in memory with its context: load, tokenize, decode, forget. Everything here blocks.

The context is unified (`kv_unified`) and its window cache whole (`swa_full`): only so is it right to share
and cut back sequences of any model, and fast to decode them in any order. The price is a full-size cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import msgspec

from suite.engine.bindings import last_messages, lib
from suite.errors import GenerationFailed, LoadFailed

_MICRO_BATCH = 512
"""Tokens that are computed at once; more costs memory and wins nothing on a CPU."""


class ContextSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is loaded."""

    context_tokens: int
    batch_tokens: int
    gpu_layers: int
    """-1: all of them."""
    threads: int
    slots: int


class Vocabulary:
    """Text to tokens and back. Safe to use from any thread while the model decodes."""

    def __init__(self, model: int) -> None:
        self._model = model
        self._vocab = lib.llama_model_get_vocab(model)
        self.size: int = lib.llama_vocab_n_tokens(self._vocab)
        self.adds_bos: bool = lib.llama_vocab_get_add_bos(self._vocab)
        self.bos = self._special(lib.llama_vocab_bos(self._vocab))
        self.eos = self._special(lib.llama_vocab_eos(self._vocab))
        self._pieces: dict[int, bytes] = {}

    def _special(self, token: int) -> str:
        return "" if token < 0 else self.piece(token, special=True).decode("utf-8", "replace")

    @property
    def chat_template(self) -> str | None:
        """The chat template that the model file carries."""
        template = lib.llama_model_chat_template(self._model, None)
        return None if template is None else template.decode("utf-8", "replace")

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text, special ones in it included, with what the model wants at the beginning."""
        data = text.encode("utf-8", "replace")
        room = len(data) + 8  # a token is a byte at least, but for the few that the model adds
        tokens = (lib.llama_token * room)()
        count = lib.llama_tokenize(self._vocab, data, len(data), tokens, room, True, True)
        if count < 0:
            raise GenerationFailed(f"the model's tokenizer failed on a text of {len(data)} bytes")
        return tokens[:count]

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token; a special token has none unless asked for."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def shown(self, token: int) -> bytes:
        """The bytes that a generated token adds to the answer."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self.piece(token)
        return known

    def ends(self, token: int) -> bool:
        """Whether the model says with this token that it has finished."""
        return bool(lib.llama_vocab_is_eog(self._vocab, token))


class Model:
    """A loaded model. All but its vocabulary belongs to the one thread that decodes."""

    def __init__(self, model: int, context: int, settings: ContextSettings) -> None:
        self.context = context
        self.settings = settings
        self.vocabulary = Vocabulary(model)
        self.can_share = not (lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model))
        self._model = model
        self._memory = lib.llama_get_memory(context)
        self._batch = _Batch(settings.batch_tokens, settings.slots)

    @classmethod
    def load(cls, path: str, settings: ContextSettings, progress: Callable[[float], None]) -> Model:
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
                f"llama.cpp could not make a context of {settings.context_tokens} tokens "
                f"(set a smaller context_length): {last_messages() or 'it gave no reason'}"
            )
        loaded = cls(model, context, settings)
        loaded._warm_up()
        return loaded

    def _warm_up(self) -> None:
        """Decode one token, so that weights and buffers are in memory before the first request is."""
        lib.llama_set_warmup(self.context, True)
        self.decode([0], 0, 0)
        lib.llama_set_warmup(self.context, False)
        lib.llama_memory_clear(self._memory, True)

    def decode(self, tokens: list[int], sequence: int, position: int) -> bool:
        """Decode tokens of one sequence from a position on; the last one's logits can be sampled then.

        At most `batch_tokens`. False: the cache has no room for them, and nothing has changed.
        Raises GenerationFailed, after which what the sequence holds is unknown.
        """
        result = lib.llama_decode(self.context, self._batch.fill(tokens, sequence, position))
        if result == 0:
            return True
        if result == 1:
            return False
        raise GenerationFailed(f"llama.cpp could not decode (code {result}): {last_messages()}".rstrip(": "))

    def cut(self, sequence: int, position: int) -> bool:
        """Forget a sequence from a position on. False: this model cannot forget a part, and has not."""
        return bool(lib.llama_memory_seq_rm(self._memory, sequence, position, -1))

    def length(self, sequence: int) -> int:
        """How many tokens a sequence has in memory, by llama.cpp's own account."""
        last: int = lib.llama_memory_seq_pos_max(self._memory, sequence)
        return last + 1

    def share(self, source: int, target: int, tokens: int) -> None:
        """Let the empty sequence `target` begin with the first tokens of `source`, without copying them."""
        lib.llama_memory_seq_cp(self._memory, source, target, 0, tokens)

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
    params.n_ctx = settings.context_tokens
    params.n_batch = settings.batch_tokens
    params.n_ubatch = min(settings.batch_tokens, _MICRO_BATCH)
    params.n_seq_max = settings.slots
    params.n_threads = params.n_threads_batch = settings.threads
    params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_AUTO
    params.kv_unified = True
    params.swa_full = True
    return params


class _Batch:
    """One llama_batch over arrays of its own: all but tokens and positions is filled in once."""

    def __init__(self, size: int, sequences: int) -> None:
        self._tokens = (lib.llama_token * size)()
        self._positions = (lib.llama_pos * size)()
        self._wants_logits = (ctypes.c_int8 * size)()
        self._counts = (ctypes.c_int32 * size)(*[1] * size)
        self._ids = [lib.llama_seq_id(sequence) for sequence in range(sequences)]
        pointer = ctypes.POINTER(lib.llama_seq_id)
        self._sequences = [(pointer * size)(*[ctypes.pointer(id)] * size) for id in self._ids]
        self._last = 0
        self._batch = lib.llama_batch(
            n_tokens=0,
            token=ctypes.cast(self._tokens, ctypes.POINTER(lib.llama_token)),
            embd=None,
            pos=ctypes.cast(self._positions, ctypes.POINTER(lib.llama_pos)),
            n_seq_id=ctypes.cast(self._counts, ctypes.POINTER(ctypes.c_int32)),
            seq_id=ctypes.cast(self._sequences[0], ctypes.POINTER(pointer)),
            logits=ctypes.cast(self._wants_logits, ctypes.POINTER(ctypes.c_int8)),
        )
        self._tables = [ctypes.cast(table, ctypes.POINTER(pointer)) for table in self._sequences]

    def fill(self, tokens: list[int], sequence: int, position: int) -> lib.llama_batch:
        count = len(tokens)
        self._tokens[:count] = [*tokens]
        self._positions[:count] = [*range(position, position + count)]
        self._wants_logits[self._last] = 0
        self._last = count - 1
        self._wants_logits[self._last] = 1
        self._batch.n_tokens = count
        self._batch.seq_id = self._tables[sequence]  # type: ignore[assignment]  # annotated as an array
        return self._batch
