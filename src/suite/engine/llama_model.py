"""One loaded model with its context: load, decode, save and restore sequences. Everything here blocks.

The KV cache has one of two forms (ADR 35). Separate: each sequence has a stream of its own, and looks only at
that; llama.cpp decodes those at once whose numbers follow each other without a gap. Unified: all sequences
share one cache (`kv_unified`), so that each may be long while others are short, and look at all of it.

Either way it has its full size for sliding windows too (`swa_full`). Only then are prefixes of any model
copied and truncated correctly. The price is the memory of a full-size cache.
"""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec

from suite.engine.adapters import AdapterSet
from suite.engine.backend import BatchEntry, Cores
from suite.engine.bindings import buffers, last_messages, lib
from suite.engine.loaded_adapters import LoadedAdapters
from suite.engine.pictures.projector import Projector
from suite.engine.pictures.tokens import Piece
from suite.engine.sampler import Sampler, SamplingParams
from suite.engine.snapshots.file import Payload, uninitialised
from suite.engine.vocabulary import Vocabulary
from suite.errors import GenerationFailed, LoadFailed
from suite.messages.actions.status import KvCacheForm
from suite.messages.actor import Buffer
from suite.messages.logprobs import PromptToken, TokenLogprobs

_log = logging.getLogger("suite.engine")

SCORED_BYTES = 32 << 20
"""The most memory for the logits of prompts in one step. llama.cpp has them twice, and keeps the room."""
_MICRO_BATCH = 512
"""llama.cpp's `n_ubatch`, in tokens: more costs memory and gains nothing on a CPU."""
_LOGIT_BYTES = 4


class DraftSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The model that guesses the next tokens of another one; all else is as of that."""

    path: str
    flash_attention: bool = True


class ContextSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is loaded."""

    context_tokens: int
    """The most tokens that one sequence can have."""
    cache_tokens: int
    """The most tokens that all sequences together can have in a unified KV cache."""
    kv_cache: KvCacheForm = "unified"
    """In a separate one each sequence has room for `context_tokens`."""
    flash_attention: bool = True
    """Whether a CPU computes with llama.cpp's flash attention; a GPU does where it can (ADR 38)."""
    batch_tokens: int
    prompt_step_tokens: int = 256
    """The most prompt tokens in one step while answers are being generated."""
    max_step_seconds: float = 0.15
    """How long running answers may wait for a step, if their own tokens alone do not take longer."""
    gpu_layers: int
    """Layers to put on the GPU; -1: all."""
    tensor_split: tuple[float, ...] = ()
    """The share of each GPU in these layers; empty: llama.cpp divides them by the memory that is free."""
    threads: int
    slots: int
    projector: str | None = None
    """The path of the projector (mmproj) by which it reads pictures; None: it reads none."""
    speculates: bool = False
    """Whether the next tokens of answers are guessed where that is faster."""
    draft: DraftSettings | None = None
    """The model that guesses them; None: they are looked up in the prompt and the answer so far."""


class LlamaModel:
    """A loaded model. Except for its vocabulary, only the engine's thread may use it."""

    def __init__(self, model: int, context: int, settings: ContextSettings) -> None:
        self.context = context
        self.settings = settings
        self.vocabulary = Vocabulary(model)
        self.can_share = not (lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model))
        self._model = model
        self._window: int = lib.llama_model_n_swa(model)
        self._weights_bytes: int = lib.llama_model_size(model)
        self._token_bytes = 0
        """Bytes of one token in the KV cache."""
        self._memory = lib.llama_get_memory(context)
        self._copies_pending = False
        """Whether llama.cpp is to copy streams at the next decode."""
        self.buffers: tuple[Buffer, ...] = ()
        """What llama.cpp has allocated for it, as far as that is known."""
        self._batch = _Batch(settings.batch_tokens, settings.slots)
        self._threads = settings.threads
        self.projector: Projector | None = None
        """What makes embeddings of pictures; None: it reads none."""
        self.reads_no_pictures = "it has no projector (mmproj)"
        """Why it reads no pictures, if it reads none."""
        self._adapters = LoadedAdapters(model, context)

    @property
    def in_background(self) -> bool:
        """Whether what `decode` began may go on after it, until logits are read."""
        return _on_gpu(self.settings)

    @property
    def context_tokens(self) -> int:
        """The most tokens that one sequence can have."""
        return self.settings.context_tokens

    @property
    def separate(self) -> bool:
        """Whether each sequence has room of its own in the KV cache, for `context_tokens`."""
        return self.settings.kv_cache == "separate"

    @property
    def cache_tokens(self) -> int:
        """The most tokens that all sequences together can have in a unified KV cache."""
        return self.settings.cache_tokens

    @property
    def batch_tokens(self) -> int:
        """The most tokens in one batch."""
        return self.settings.batch_tokens

    @property
    def scored_tokens(self) -> int:
        """The most tokens in one batch for which the logits after each are wanted."""
        return max(1, SCORED_BYTES // (_LOGIT_BYTES * self.vocabulary.size))

    @classmethod
    def load(
        cls,
        path: str,
        settings: ContextSettings,
        progress: Callable[[float], None],
        cores: Cores | None = None,
    ) -> LlamaModel:
        """Load a GGUF file. `progress` is called with the loaded fraction, 0 to 1.

        `cores` says with how many threads it is tried out; None: with those of the settings.
        Raises LoadFailed with llama.cpp's message.
        """
        lib.llama_backend_init()

        def report(fraction: float, _user_data: object) -> bool:
            progress(fraction)
            return True

        params = lib.llama_model_default_params()
        params.n_gpu_layers = settings.gpu_layers
        shares = _shares(settings.tensor_split)
        if settings.tensor_split:
            params.tensor_split = shares
        params.progress_callback = callback = lib.llama_progress_callback(report)
        last_messages()
        model = lib.llama_model_load_from_file(path.encode(), params)
        del callback, shares  # llama.cpp used them until here
        if not model:
            raise LoadFailed(f"llama.cpp could not load the model: {last_messages() or 'it gave no reason'}")
        context = lib.llama_init_from_model(model, _context_params(settings))
        if not context:
            lib.llama_model_free(model)
            raise LoadFailed(
                f"llama.cpp could not make a KV cache of {_context_params(settings).n_ctx} tokens "
                f"(set a smaller context_length): {last_messages() or 'it gave no reason'}"
            )
        loaded = cls(model, context, settings)
        if cores is not None:
            loaded.use_threads(cores.due(reading=True, priority=0))
        loaded._warm_up()
        if settings.projector is not None:
            loaded._open_projector(Path(settings.projector))
        loaded.buffers = buffers()
        last_messages()  # what it said about the file explains no later error
        return loaded

    def _warm_up(self) -> None:
        """Decode one token, so that weights and buffers are in memory before the first request."""
        lib.llama_set_warmup(self.context, True)
        self.decode([BatchEntry(0, [0], 0, wants_logits=True)])
        lib.llama_set_warmup(self.context, False)
        self._token_bytes = lib.llama_state_seq_get_size(self.context, 0)
        lib.llama_memory_clear(self._memory, False)

    def _open_projector(self, path: Path) -> None:
        """Load the projector. One that cannot be used is told to whoever sends a picture."""
        try:
            self.projector = Projector(
                path,
                model=self._model,
                context=self.context,
                context_tokens=self.context_tokens,
                threads=self.settings.threads,
                use_gpu=_on_gpu(self.settings),
                batch_tokens=min(self.settings.batch_tokens, _MICRO_BATCH),
            )
        except (LoadFailed, OSError) as error:
            self.reads_no_pictures = str(error)
            _log.warning("the model reads no pictures: %s", error)

    @property
    def threads(self) -> int:
        """With how many threads it computes now."""
        return self._threads

    def use_threads(self, threads: int) -> None:
        """Compute with this many threads from now on."""
        if threads != self._threads:
            lib.llama_set_n_threads(self.context, threads, threads)
            self._threads = threads

    def load_adapters(self, adapters: AdapterSet) -> None:
        """Have these adapters in memory. Raises GenerationFailed if one cannot be loaded."""
        self._adapters.load(adapters)

    def use_adapters(self, adapters: AdapterSet) -> None:
        """Compute with these adapters from now on. Raises GenerationFailed if one cannot be loaded."""
        self._adapters.use(adapters)

    def decode(self, entries: Sequence[BatchEntry]) -> bool:
        """Decode a batch of at most `batch_tokens` tokens.

        Returns False, and changes nothing, when the KV cache has no room for it. Raises GenerationFailed; the
        contents of these sequences are unknown afterwards.
        """
        result: int = lib.llama_decode(self.context, self._batch.fill(entries))
        if result in (0, 1):
            self._copies_pending = False
            return result == 0
        raise GenerationFailed(f"llama.cpp could not decode (code {result}): {last_messages()}".rstrip(": "))

    def decode_picture(
        self, sequence: int, position: int, piece: Piece, *, left: int | None, most: int
    ) -> int | None:
        """Go on to decode a piece of a picture, whose first position this is, by at most so many cells.

        `left` is how many it had left the last time; None: it begins. Returns how many are left now, at once
        0 for a model that has to see it as a whole; or None when the KV cache has no room for it, and then
        nothing of it is left there. Raises GenerationFailed; the contents of this sequence are unknown
        afterwards.
        """
        assert self.projector is not None, "no picture was encoded without one"
        still = self.projector.decode(sequence, position, piece, left=left, most=most)
        if still is None:
            lib.llama_memory_seq_rm(self._memory, sequence, position, -1)
        else:
            self._copies_pending = False
        return still

    def score(self, token: int, row: int | None, alternatives: int) -> PromptToken:
        """The log probability of a token by the logits of this row of the last batch, and the likeliest ones.

        None: the token is the first of its prompt and has none. Raises GenerationFailed.
        """
        from suite.engine import candidates  # with numpy, which a start need not wait for

        logits = None if row is None else candidates.logits_of(self.context, row, self.vocabulary.size)
        return candidates.prompt_token(token, logits, alternatives, self.vocabulary)

    def sampler(self, sampling: SamplingParams) -> ContextSampler:
        """A new sampler for one generation."""
        return ContextSampler(Sampler(sampling, self.vocabulary), self.context)

    def truncate(self, sequence: int, position: int) -> bool:
        """Remove the tokens of a sequence from a position on.

        Returns False, and removes nothing, when the model cannot remove only a part.
        """
        if 0 < position < self.min_prefix(sequence):
            return False
        return bool(lib.llama_memory_seq_rm(self._memory, sequence, position, -1))

    def length(self, sequence: int) -> int:
        """The number of tokens that llama.cpp has in the KV cache for a sequence."""
        last: int = lib.llama_memory_seq_pos_max(self._memory, sequence)
        return last + 1

    def copy_prefix(self, source: int, target: int, tokens: int) -> None:
        """Let the empty sequence `target` have the first tokens of `source`.

        In a unified cache both share its cells. `target` stays empty when `source` cannot be truncated to
        them.
        """
        if tokens < self.min_prefix(source):
            return
        if not self.separate:
            lib.llama_memory_seq_cp(self._memory, source, target, 0, tokens)
            return
        if self._copies_streams:
            self._copy_stream(source, target)
        else:
            self.restore(target, self.save(source))
        lib.llama_memory_seq_rm(self._memory, target, tokens, -1)

    # --- changing places ------------------------------------------------------------------------------------

    def exchange(self, first: int, second: int) -> None:
        """Let two sequences of a separate cache change places; one of them may be empty.

        Raises MemoryError, which changes nothing, and GenerationFailed, after which the contents of both are
        unknown.
        """
        if self._copies_streams:
            self._exchange_streams(first, second)
        else:
            self._exchange_states(first, second)

    def exchange_steps(self, first: int, second: int) -> float:
        """What `exchange` costs, as a number of steps in which a batch is decoded in one part more.

        A part more reads the weights once more, so what counts is how many bytes go through memory. Infinite
        if they cannot change places.
        """
        held = [sequence for sequence in (first, second) if self.length(sequence)]
        if not self._copies_streams:
            moved = 4 * sum(map(self._state_bytes, held))  # read and written, into the state and out of it
        elif len(held) == 2 and self._spare is None:
            return math.inf
        else:
            copies = 3 if len(held) == 2 else 1
            moved = 2 * copies * self.context_tokens * self._token_bytes
        return moved / self._weights_bytes

    @property
    def _copies_streams(self) -> bool:
        """Whether sequences are copied as whole streams, as a saved state lacks what a window has passed."""
        return self._window > 0 and self.can_share

    @property
    def _spare(self) -> int | None:
        """An empty sequence."""
        return next((each for each in range(self.settings.slots) if not self.length(each)), None)

    def _state_bytes(self, sequence: int) -> int:
        if self.can_share:
            return self.length(sequence) * self._token_bytes
        size: int = lib.llama_state_seq_get_size(self.context, sequence)
        return size

    def _exchange_states(self, first: int, second: int) -> None:
        states = [
            (target, self.save(source))
            for source, target in ((first, second), (second, first))
            if self.length(source)
        ]
        if not all(len(state) for _, state in states):
            raise MemoryError(f"llama.cpp could not save a sequence: {last_messages()}".rstrip(": "))
        for sequence in (first, second):
            lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        for target, state in states:
            if not self.restore(target, state):
                raise GenerationFailed("llama.cpp could not move a sequence")

    def _exchange_streams(self, first: int, second: int) -> None:
        if not self.length(first):
            first, second = second, first
        if not self.length(second):
            self._copy_stream(first, second)
            lib.llama_memory_seq_rm(self._memory, first, -1, -1)
            return
        spare = self._spare
        if spare is None:
            raise GenerationFailed("there is no free slot to move a sequence by")
        for source, target in ((first, spare), (second, first), (spare, second)):
            self._copy_stream(source, target)
        lib.llama_memory_seq_rm(self._memory, spare, -1, -1)

    def _copy_stream(self, source: int, target: int) -> None:
        """Replace a whole stream by another one. Streams are copied in this order, at the next decode."""
        lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._copies_pending = True

    def _finish_copies(self) -> None:
        """Have streams copied now: whoever reads or writes one directly would meet what was there before."""
        if not self._copies_pending:
            return
        shortest = min(range(self.settings.slots), key=self.length)
        length = self.length(shortest)
        try:
            self.decode([BatchEntry(shortest, [0], length, wants_logits=True)])
        finally:
            lib.llama_memory_seq_rm(self._memory, shortest, length, -1)

    # --- saved states ---------------------------------------------------------------------------------------

    def min_prefix(self, sequence: int) -> int:
        """The fewest tokens to which a sequence can be truncated and stay correct; 0 always works.

        A saved state lacks the tokens that a sliding window had already passed. If a restored sequence were
        truncated to where the window sees them again, the model would silently generate wrong text.
        """
        length = self.length(sequence)
        if not self.can_share:
            return length
        earliest: int = lib.llama_memory_seq_pos_min(self._memory, sequence)
        return min(length, earliest + self._window) if earliest > 0 else 0

    def min_saved_prefix(self, sequence: int) -> int:
        """The fewest tokens to which the saved state of a sequence can be truncated after `restore`."""
        length = self.length(sequence)
        return length if 0 < self._window < length else self.min_prefix(sequence)

    def save(self, sequence: int) -> Payload:
        """The state of a sequence as bytes, for `restore`; empty when llama.cpp cannot save it.

        Raises MemoryError and GenerationFailed, which change nothing.
        """
        self._finish_copies()
        size = lib.llama_state_seq_get_size(self.context, sequence)
        state = uninitialised(size)
        written = lib.llama_state_seq_get_data(self.context, _bytes_of(state), size, sequence)
        return state[:written]

    def restore(self, sequence: int, payload: Payload) -> bool:
        """Load a saved state into a sequence. False: it does not fit, and the sequence is empty.

        The caller guarantees that the state is undamaged, and of the same model and settings: llama.cpp does
        not notice flipped bits.
        """
        self._finish_copies()
        read: int = lib.llama_state_seq_set_data(self.context, _bytes_of(payload), len(payload), sequence)
        return read > 0

    def logits(self) -> list[float]:
        """The logits of the last decoded token."""
        values: list[float] = lib.llama_get_logits_ith(self.context, -1)[: self.vocabulary.size]
        return values

    def free(self) -> None:
        """Free model and context. Nothing of it may be used afterwards."""
        if self.projector is not None:
            self.projector.free()
        lib.llama_free(self.context)
        lib.llama_model_free(self._model)


def _shares(tensor_split: Sequence[float]) -> ctypes.Array[ctypes.c_float]:
    """The shares of as many devices as llama.cpp reads: 0 for those of which nothing is said."""
    most: int = lib.llama_max_devices()
    return (ctypes.c_float * most)(*tensor_split[:most])


def flash_attention_type(settings: ContextSettings) -> int:
    """How a context with these settings computes attention, in llama.cpp's terms (ADR 38)."""
    chosen: int = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if settings.flash_attention or _on_gpu(settings):
        chosen = lib.LLAMA_FLASH_ATTN_TYPE_AUTO
    return chosen


def _on_gpu(settings: ContextSettings) -> bool:
    return settings.gpu_layers != 0 and bool(lib.llama_supports_gpu_offload())


def _context_params(settings: ContextSettings) -> lib.llama_context_params:
    params: lib.llama_context_params = lib.llama_context_default_params()
    params.n_ctx = settings.cache_tokens
    if settings.kv_cache == "separate":
        params.n_ctx = settings.slots * settings.context_tokens
    params.n_batch = settings.batch_tokens
    params.n_ubatch = min(settings.batch_tokens, _MICRO_BATCH)
    params.n_seq_max = settings.slots
    params.n_threads = params.n_threads_batch = settings.threads
    params.flash_attn_type = flash_attention_type(settings)
    params.kv_unified = settings.kv_cache == "unified"
    params.swa_full = True
    return params


def _bytes_of(payload: Payload) -> ctypes._Pointer[ctypes.c_uint8]:
    """A pointer to a payload, without a copy."""
    import numpy as np  # with the first state, not before the load

    return np.frombuffer(payload, np.uint8).ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


class ContextSampler:
    """The sampler of one generation, which reads the logits of one context."""

    def __init__(self, sampler: Sampler, context: int) -> None:
        self.sampler = sampler
        self._context = context

    @property
    def logprobs(self) -> TokenLogprobs | None:
        """Log probabilities of the last sampled token; None if the request did not ask for them."""
        return self.sampler.last_logprobs

    def accept_prompt(self, prompt: Sequence[int]) -> None:
        """Count the prompt's last tokens for the repetition penalties."""
        self.sampler.accept_prompt(prompt)

    def sample(self, row: int, exempt: Collection[int] | None = ()) -> int:
        """Sample the next token from the logits of this row of the last batch."""
        return self.sampler.sample(self._context, row, exempt)

    def close(self) -> None:
        """Free the sampler's memory in llama.cpp."""
        self.sampler.close()


class _Batch:
    """One `llama_batch` whose arrays are reused for each step."""

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

    def fill(self, entries: Sequence[BatchEntry]) -> lib.llama_batch:
        end = 0
        for sequence, tokens, position, wants_logits, is_scored in entries:
            begin, end = end, end + len(tokens)
            if end - begin == 1:
                self._tokens[begin] = tokens[0]
                self._positions[begin] = position
                self._sequences[begin] = self._of_sequence[sequence]
                self._wants_logits[begin] = wants_logits or is_scored
                continue
            self._tokens[begin:end] = [*tokens]
            self._positions[begin:end] = [*range(position, position + end - begin)]
            self._sequences[begin:end] = [self._of_sequence[sequence]] * (end - begin)
            self._wants_logits[begin:end] = [int(is_scored)] * (end - begin)
            self._wants_logits[end - 1] = int(wants_logits or is_scored)
        self._batch.n_tokens = end
        return self._batch
