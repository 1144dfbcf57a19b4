"""Decides the KV cache of a model: its form, how many slots it has, and how many tokens each can have.

llama.cpp takes the memory of all cells when it makes a context, used or not. Separate streams are faster
where several answers are generated (ADR 35), and cost a whole context for each slot. So they are the default
where that fits a budget, with fewer slots if need be. Where not even `FEWEST_SLOTS` of them fit, all slots
share a unified cache. What is configured is never made smaller. Pure.
"""

from __future__ import annotations

from typing import Final

import msgspec

from suite.config import DEFAULT_SLOTS, ModelSettings
from suite.engine.gguf.estimate import cells_of, kv_bytes_per_token
from suite.engine.gguf.file import GgufInfo
from suite.errors import InvalidConfiguration
from suite.messages.actions.status import KvCacheForm
from suite.units import size

DEFAULT_CONTEXT_TOKENS: Final = 4096
"""The largest default context, in tokens: the one that a model was trained for can take many gigabytes."""
FEWEST_SLOTS: Final = 4
"""With fewer, generations would wait for a slot more often than separate streams are worth."""
CACHE_SHARE: Final = 1 / 16
"""The part of the memory limit that a default KV cache may take, as a node has several models."""
CACHE_BYTES: Final = 128 << 20
"""What a default KV cache may take in any case, in bytes; and the largest default unified one, unless one
context needs more."""


class KvCache(msgspec.Struct, frozen=True, kw_only=True):
    """The KV cache that a model is loaded with."""

    form: KvCacheForm
    slots: int
    context_tokens: int
    """The most tokens of one conversation."""
    cache_tokens: int
    """The most tokens of all slots together."""
    warning: str | None = None
    """What was configured and is done in another way, and why."""

    @property
    def streams(self) -> int:
        """The parts that llama.cpp divides it into."""
        return self.slots if self.form == "separate" else 1


def context_tokens(settings: ModelSettings, info: GgufInfo) -> int:
    """The context that a model is loaded with, in tokens."""
    return settings.context_length or min(info.context_tokens, DEFAULT_CONTEXT_TOKENS)


def kv_cache(settings: ModelSettings, info: GgufInfo, limit_bytes: int) -> KvCache:
    """The KV cache of a model on a node with this memory limit.

    Raises InvalidConfiguration if the settings contradict each other.
    """
    separate, unified = _separate(settings, info, limit_bytes), _unified(settings, info)
    match settings.kv_cache:
        case "separate":
            _check_total(settings, separate)
            return separate
        case "unified":
            return unified
    if settings.cache_tokens is not None:
        return separate if separate.cache_tokens <= settings.cache_tokens else unified
    stream_bytes = _stream_bytes(settings, info)
    if separate.slots * stream_bytes <= _budget_bytes(limit_bytes):
        return separate
    if settings.slots is None or settings.context_length is None:
        return unified
    if separate.slots * stream_bytes <= limit_bytes:  # as configured, though it takes more than by default
        return separate
    return msgspec.structs.replace(unified, warning=_shared(separate, unified, stream_bytes, limit_bytes))


def _separate(settings: ModelSettings, info: GgufInfo, limit_bytes: int) -> KvCache:
    context = context_tokens(settings, info)
    slots = settings.slots or _default_slots(settings, info, limit_bytes)
    return KvCache(form="separate", slots=slots, context_tokens=context, cache_tokens=slots * context)


def _default_slots(settings: ModelSettings, info: GgufInfo, limit_bytes: int) -> int:
    """As many separate streams as the budget has room for."""
    if settings.cache_tokens is not None:
        room = settings.cache_tokens // context_tokens(settings, info)
    else:
        room = _budget_bytes(limit_bytes) // max(1, _stream_bytes(settings, info))
    fewest = 1 if settings.kv_cache == "separate" else FEWEST_SLOTS
    return max(fewest, min(DEFAULT_SLOTS, room))


def _unified(settings: ModelSettings, info: GgufInfo) -> KvCache:
    context, slots = context_tokens(settings, info), settings.slots or DEFAULT_SLOTS
    wanted = settings.cache_tokens or min(context * slots, CACHE_BYTES // max(1, kv_bytes_per_token(info)))
    return KvCache(form="unified", slots=slots, context_tokens=context, cache_tokens=max(context, wanted))


def _budget_bytes(limit_bytes: int) -> int:
    return max(CACHE_BYTES, int(limit_bytes * CACHE_SHARE))


def _stream_bytes(settings: ModelSettings, info: GgufInfo) -> int:
    return cells_of(context_tokens(settings, info)) * kv_bytes_per_token(info)


def _check_total(settings: ModelSettings, separate: KvCache) -> None:
    total = settings.cache_tokens
    if total is not None and separate.cache_tokens > total:
        raise InvalidConfiguration(
            f'kv_cache = "separate" has room for {separate.context_tokens:,} tokens in each of '
            f"{separate.slots} slots, {separate.cache_tokens:,} in all, but cache_tokens is {total:,}: "
            f"set cache_tokens to {separate.cache_tokens:,}, or slots to "
            f"{max(1, total // separate.context_tokens)}, or context_length to "
            f"{max(1, total // separate.slots):,}"
        )


def _shared(separate: KvCache, unified: KvCache, stream_bytes: int, limit_bytes: int) -> str:
    slots = limit_bytes // stream_bytes
    return (
        f"{separate.slots} slots of {separate.context_tokens:,} tokens take "
        f"{size(separate.slots * stream_bytes)} and the memory limit is {size(limit_bytes)}, so the slots "
        f"share {unified.cache_tokens:,} tokens: set slots to {max(1, slots)} or less, or context_length to "
        f"{max(1, separate.context_tokens * slots // separate.slots):,} or less"
    )


def smaller(cache: KvCache, info: GgufInfo, excess_bytes: int) -> str:
    """Which settings make a KV cache take so many bytes less; empty if none does."""
    per_token = kv_bytes_per_token(info)
    tokens = cache.cache_tokens - -(-excess_bytes // max(1, per_token))
    if not per_token or tokens < 1:
        return ""
    if cache.form == "unified":
        return f"context_length and cache_tokens of at most {tokens:,}"
    ways = [f"context_length = {context:,}"] if (context := tokens // cache.slots // 256 * 256) else []
    if (slots := tokens // cache.context_tokens) >= 1:
        ways.append(f"slots = {slots}")
    return " or ".join([*ways, 'kv_cache = "unified"'])
