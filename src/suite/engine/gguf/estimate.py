"""Estimates the memory that a model will take, from its header and settings alone.

weights: the tensors as they are in the file (mapped), a second copy of the types that llama.cpp repacks for
the
    CPU, and llama.cpp's tables of the vocabulary (measured: 166 bytes a token, 191 a merge).
KV: a key and a value of each KV head in each layer, 16 bits each, for every token of the cache rounded up to
    256; full size for layers with a sliding window too, as contexts are made with ``swa_full``. Layers that
    share another's cache are counted; the small fixed state of recurrent layers is not.
compute: llama.cpp's compute buffer with flash attention, for a micro-batch of u tokens::

        u * (4 * (4 * width + max(vocabulary, 3 * feed_forward, heads * (key + value))) + 2 * context)

    which is the widest step of the graph in 32 bits and the attention mask in 16 bits; plus one row of logits
    for each slot, and the process itself. Without flash attention the widest step may also be a score of each
    head for each token of the context, and the mask has 32 bits.

Compared with what llama.cpp logs (llama-cpp-python 0.3.36 on a CPU, u = 512, contexts of 512, 2048, 4096 and
8192 tokens): KV exact; compute buffer of SmolLM2 +2.8, 0.0, +6.4 and +10.4 %, of Gemma 3 270M +0.6 to +2.0 %;
of SmolLM2 without flash attention +3.3, +5.1, +9.2 and -1.1 %.
Compared with the resident memory after loading, less that before: weights -0.6 % and -0.1 %. The compute
buffer is an upper bound of what becomes resident: logits are made for few tokens of a batch, so most of the
buffer of a model with a large vocabulary is never touched.
"""

from __future__ import annotations

from suite.engine.gguf.file import GgufInfo
from suite.engine.gguf.ggml import REPACKED_TYPES
from suite.messages.actions.status import MemoryEstimate

MICRO_BATCH_TOKENS = 512
"""The most tokens that llama.cpp computes at once (`n_ubatch`)."""
PROCESS_BYTES = 48 << 20
"""The memory of a model's process before it loads a model: the interpreter and its libraries."""

SMALL_HEAD = 64
"""The longest key of a head, in numbers, for which plain attention is the faster one on a CPU (ADR 38)."""
SCORES_BYTES = 128 << 20
"""The most that the scores of plain attention may take, in bytes."""

_CELLS_PADDING = 256
_TOKEN_BYTES = 170
_MERGE_BYTES = 200
_FLOAT_BYTES = 4
_HALF_BYTES = 2


def cells_of(tokens: int) -> int:
    """The cells that llama.cpp makes for so many tokens."""
    return -(-tokens // _CELLS_PADDING) * _CELLS_PADDING


def uses_flash_attention(info: GgufInfo, *, cache_tokens: int, batch_tokens: int) -> bool:
    """Whether flash attention is the better one for this model on a CPU (ADR 38)."""
    micro_batch = min(batch_tokens, MICRO_BATCH_TOKENS)
    scores = micro_batch * _FLOAT_BYTES * _scores(info, cells_of(cache_tokens))
    return info.key_length > SMALL_HEAD or scores > SCORES_BYTES


def estimate(
    info: GgufInfo,
    *,
    cache_tokens: int,
    batch_tokens: int,
    slots: int = 1,
    streams: int = 1,
    flash_attention: bool = True,
) -> MemoryEstimate:
    """Estimate the memory of a model's process for this cache, batch size and number of slots.

    `cache_tokens` are those of one stream; a unified cache is one stream.
    """
    cells = cells_of(cache_tokens)
    micro_batch = min(batch_tokens, MICRO_BATCH_TOKENS)
    return MemoryEstimate(
        weights_bytes=weights_bytes(info, info.tensor_bytes),
        kv_bytes=_kv(info, streams * cells),
        compute_bytes=_compute(info, cells, micro_batch, slots, flash_attention=flash_attention),
    )


def weights_bytes(info: GgufInfo, tensor_bytes: int) -> int:
    """The RAM for so many bytes of a model's tensors: those that a CPU computes with."""
    repacked = sum(size for name, size in info.tensor_bytes_by_type.items() if name in REPACKED_TYPES)
    repacked = repacked * tensor_bytes // info.tensor_bytes
    return tensor_bytes + repacked + info.vocabulary * _TOKEN_BYTES + info.merges * _MERGE_BYTES


def host_bytes(info: GgufInfo, *, cache_tokens: int, batch_tokens: int) -> int:
    """The RAM to compute in where every layer is on a GPU: a batch's embeddings and its mask."""
    micro_batch = min(batch_tokens, MICRO_BATCH_TOKENS)
    return micro_batch * (_FLOAT_BYTES * info.embedding_length + _HALF_BYTES * cells_of(cache_tokens))


def kv_bytes_per_token(info: GgufInfo) -> int:
    """Bytes of one token in the KV cache; 0 for a model without one."""
    if not info.causal:
        return 0
    return sum(info.kv_head_counts) * (info.key_length + info.value_length) * _HALF_BYTES


def _kv(info: GgufInfo, cells: int) -> int:
    return cells * kv_bytes_per_token(info)


def _scores(info: GgufInfo, cells: int) -> int:
    """The numbers that plain attention computes for one token: for each head and cell."""
    return max(info.head_counts) * cells


def _compute(info: GgufInfo, cells: int, micro_batch: int, slots: int, *, flash_attention: bool) -> int:
    heads = max(info.head_counts) * (info.key_length + info.value_length)
    scores = 0 if flash_attention else _scores(info, cells)
    widest = max(info.vocabulary, 3 * info.feed_forward_length, heads, scores)
    graph = micro_batch * _FLOAT_BYTES * (4 * info.embedding_length + widest)
    mask = micro_batch * cells * (_HALF_BYTES if flash_attention else _FLOAT_BYTES)
    logits = slots * _FLOAT_BYTES * info.vocabulary
    return graph + mask + logits + PROCESS_BYTES
