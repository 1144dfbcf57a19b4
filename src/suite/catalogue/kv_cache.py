"""Decides the KV cache of a model: its form, how many slots it has, and how many tokens each can have.

llama.cpp takes the memory of all cells when it makes a context, used or not. Separate streams are faster
where several answers are generated (ADR 35), and cost a whole context for each slot. So they are the default
where that fits a budget, with fewer slots if need be. Where not even `FEWEST_SLOTS` of them fit, all slots
share a unified cache. What is configured is never made smaller. A separate cache that would make the model
larger than the memory limit is had only where the form is configured. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from suite.config import DEFAULT_SLOTS, ModelSettings
from suite.domain.footprint import Footprint
from suite.engine.gguf.estimate import cells_of, estimate, kv_bytes_per_token, uses_flash_attention
from suite.engine.gguf.file import GgufInfo
from suite.engine.gguf.projector import ProjectorInfo
from suite.errors import InvalidConfiguration
from suite.messages.actions.status import KvCacheForm, MemoryEstimate
from suite.units import size

DEFAULT_CONTEXT_TOKENS: Final = 4096
"""The largest default context, in tokens: the one that a model was trained for can take many gigabytes."""
FEWEST_SLOTS: Final = 4
"""With fewer, generations would wait for a slot more often than separate streams are worth."""
CACHE_SHARE: Final = 1 / 16
"""The part of the memory limit that a default KV cache may take, as a node has several models."""
WEIGHTS_SHARE: Final = 4
"""A default cache of more than `FEWEST_SLOTS` slots may take so many times the bytes of the weights: a load
clears all of it, which takes longer than the rest of a small model's load."""
CACHE_BYTES: Final = 128 << 20
"""What a default KV cache may take in any case, in bytes; and the largest default unified one, unless one
context needs more."""

_CELLS: Final = 256
"""Tokens for which the cache is larger: llama.cpp makes so many cells at once."""


class KvCache(msgspec.Struct, frozen=True, kw_only=True):
    """The KV cache that a model is loaded with."""

    form: KvCacheForm
    slots: int
    context_tokens: int
    """The most tokens of one conversation."""
    cache_tokens: int
    """The most tokens of all slots together."""
    flash_attention: bool = True
    """Whether a CPU computes with llama.cpp's flash attention (ADR 38)."""
    warning: str | None = None
    """What was configured and is done in another way, and why."""

    @property
    def streams(self) -> int:
        """The parts that llama.cpp divides it into."""
        return self.slots if self.form == "separate" else 1

    @property
    def stream_tokens(self) -> int:
        """The tokens that each of these has room for."""
        return self.cache_tokens // self.streams


def budget(settings: ModelSettings, limits: Footprint) -> int:
    """What a model with these settings may have at most, in bytes: of GPUs if it is there, of RAM, or of
    both."""
    if not settings.n_gpu_layers or not limits.gpus:
        return limits.ram
    on_gpus = sum(limits.gpus.values())
    return on_gpus if settings.n_gpu_layers < 0 else limits.ram + on_gpus


def context_tokens(settings: ModelSettings, info: GgufInfo) -> int:
    """The context that a model is loaded with, in tokens."""
    return settings.context_length or min(info.context_tokens, DEFAULT_CONTEXT_TOKENS)


def kv_cache(settings: ModelSettings, info: GgufInfo, limit_bytes: int) -> KvCache:
    """The KV cache of a model on a node with this memory limit.

    Raises InvalidConfiguration if the settings contradict each other.
    """
    cache = _chosen(settings, info, limit_bytes)
    if not _is_shared_by_need(settings, info, cache, limit_bytes):
        return cache
    return msgspec.structs.replace(cache, warning=_shared(settings, info, cache, limit_bytes))


def estimated(
    cache: KvCache, settings: ModelSettings, info: GgufInfo, projector: ProjectorInfo | None = None
) -> MemoryEstimate:
    """The memory of a model that is loaded with this cache, and with the projector that it has."""
    own = _estimated(cache, settings, info)
    if projector is None:
        return own
    return msgspec.structs.replace(own, weights_bytes=own.weights_bytes + projector.tensor_bytes)


def _estimated(cache: KvCache, settings: ModelSettings, info: GgufInfo) -> MemoryEstimate:
    return estimate(
        info,
        cache_tokens=cache.stream_tokens,
        batch_tokens=settings.batch_tokens,
        slots=cache.slots,
        streams=cache.streams,
        flash_attention=cache.flash_attention,
    )


def smaller(settings: ModelSettings, info: GgufInfo, limit_bytes: int) -> str:
    """Which settings make a model fit into this limit that does not, as in TOML; empty if none does."""
    cache = _chosen(settings, info, limit_bytes)

    def fits(other: ModelSettings) -> bool:
        try:
            return _fits(_chosen(other, info, limit_bytes), other, info, limit_bytes)
        except InvalidConfiguration:
            return False

    ways = _smaller_numbers(settings, cache, fits)
    if cache.form == "separate" and fits(msgspec.structs.replace(settings, kv_cache="unified")):
        ways.append('kv_cache = "unified"')
    if settings.cache_tokens is not None and not any(way.startswith("cache_tokens") for way in ways):
        tokens = _largest(cache.context_tokens, _CELLS, lambda number: fits(_of_tokens(settings, number)))
        if tokens and (way := f"context_length = {tokens}") not in ways:
            ways.append(f"{way} and cache_tokens = {tokens}")
    return " or ".join(ways)


def _chosen(settings: ModelSettings, info: GgufInfo, limit_bytes: int) -> KvCache:
    separate, unified = _separate(settings, info, limit_bytes), _unified(settings, info)
    match settings.kv_cache:
        case "separate":
            _check_total(settings, separate)
            return separate
        case "unified":
            return unified
    if settings.cache_tokens is not None:
        return separate if separate.cache_tokens <= settings.cache_tokens else unified
    if not _fits(separate, settings, info, limit_bytes):
        return unified
    return separate if _has_both(settings) or _is_within_budget(separate, info, limit_bytes) else unified


def _has_both(settings: ModelSettings) -> bool:
    return settings.slots is not None and settings.context_length is not None


def _fits(cache: KvCache, settings: ModelSettings, info: GgufInfo, limit_bytes: int) -> bool:
    return estimated(cache, settings, info).total_bytes <= limit_bytes


def _is_within_budget(separate: KvCache, info: GgufInfo, limit_bytes: int) -> bool:
    """Whether a cache takes no more than a default one may."""
    return separate.slots * _stream_bytes(separate.context_tokens, info) <= _budget_bytes(limit_bytes)


def _separate(settings: ModelSettings, info: GgufInfo, limit_bytes: int) -> KvCache:
    if settings.slots is not None or settings.cache_tokens is not None:
        slots = settings.slots or _slots_within(settings, info)
        return _separate_with(slots, settings, info)
    for slots in range(_most_default_slots(settings, info, limit_bytes), _fewest_slots(settings, info), -1):
        cache = _separate_with(slots, settings, info)
        if _fits(cache, settings, info, limit_bytes):
            return cache
    return _separate_with(_fewest_slots(settings, info), settings, info)


def _separate_with(slots: int, settings: ModelSettings, info: GgufInfo) -> KvCache:
    context = context_tokens(settings, info)
    return KvCache(
        form="separate",
        slots=slots,
        context_tokens=context,
        cache_tokens=slots * context,
        flash_attention=_uses_flash_attention(settings, info, context),
    )


def _slots_within(settings: ModelSettings, info: GgufInfo) -> int:
    """As many separate streams as the configured tokens of all have room for."""
    room = (settings.cache_tokens or 0) // context_tokens(settings, info)
    return max(_fewest_slots(settings, info), min(_default_slots(info), room))


def _most_default_slots(settings: ModelSettings, info: GgufInfo, limit_bytes: int) -> int:
    """As many separate streams as the budget has room for."""
    stream_bytes = max(1, _stream_bytes(context_tokens(settings, info), info))
    room = _budget_bytes(limit_bytes) // stream_bytes
    few_enough = max(FEWEST_SLOTS, max(CACHE_BYTES, WEIGHTS_SHARE * info.tensor_bytes) // stream_bytes)
    return min(_default_slots(info), room, few_enough)


def _default_slots(info: GgufInfo) -> int:
    """One for a model that is made for embeddings or ranks: these have a context of their own."""
    return 1 if info.ranks or "embedding" in info.capabilities else DEFAULT_SLOTS


def _fewest_slots(settings: ModelSettings, info: GgufInfo) -> int:
    return 1 if settings.kv_cache == "separate" else min(FEWEST_SLOTS, _default_slots(info))


def _unified(settings: ModelSettings, info: GgufInfo) -> KvCache:
    context, slots = context_tokens(settings, info), settings.slots or _default_slots(info)
    wanted = settings.cache_tokens or min(context * slots, CACHE_BYTES // max(1, kv_bytes_per_token(info)))
    tokens = max(context, wanted)
    return KvCache(
        form="unified",
        slots=slots,
        context_tokens=context,
        cache_tokens=tokens,
        flash_attention=_uses_flash_attention(settings, info, tokens),
    )


def _uses_flash_attention(settings: ModelSettings, info: GgufInfo, stream_tokens: int) -> bool:
    return uses_flash_attention(info, cache_tokens=stream_tokens, batch_tokens=settings.batch_tokens)


def _budget_bytes(limit_bytes: int) -> int:
    return max(CACHE_BYTES, int(limit_bytes * CACHE_SHARE))


def _stream_bytes(context: int, info: GgufInfo) -> int:
    return cells_of(context) * kv_bytes_per_token(info)


def _check_total(settings: ModelSettings, separate: KvCache) -> None:
    total = settings.cache_tokens
    if total is None or separate.cache_tokens <= total:
        return
    ways = [f"cache_tokens = {separate.cache_tokens}"]
    if (slots := total // separate.context_tokens) > 0:
        ways.append(f"slots = {slots}")
    if (context := total // separate.slots) > 0:
        ways.append(f"context_length = {context}")
    raise InvalidConfiguration(
        f'kv_cache = "separate" has room for {separate.context_tokens:,} tokens in each of '
        f"{separate.slots} slots, {separate.cache_tokens:,} in all, but cache_tokens is {total:,}: "
        f"set {' or '.join(ways)}"
    )


def _is_shared_by_need(settings: ModelSettings, info: GgufInfo, cache: KvCache, limit_bytes: int) -> bool:
    """Whether slots share a cache only because what is configured does not fit; its load is not refused."""
    return (
        settings.kv_cache == "auto"
        and settings.cache_tokens is None
        and _has_both(settings)
        and cache.form == "unified"
        and _fits(cache, settings, info, limit_bytes)
    )


def _shared(settings: ModelSettings, info: GgufInfo, unified: KvCache, limit_bytes: int) -> str:
    separate = _separate(settings, info, limit_bytes)

    def is_separate(other: ModelSettings) -> bool:
        return _chosen(other, info, limit_bytes).form == "separate"

    ways = _smaller_numbers(settings, separate, is_separate)
    need = estimated(separate, settings, info).total_bytes
    return (
        f"with {separate.slots} streams of {separate.context_tokens:,} tokens it takes {size(need)} and the "
        f"memory limit is {size(limit_bytes)}, so the slots share {unified.cache_tokens:,} tokens: "
        + " or ".join([*(f"set {way}" for way in ways), "raise memory_limit_gb"])
    )


def _smaller_numbers(
    settings: ModelSettings, cache: KvCache, accept: Callable[[ModelSettings], bool]
) -> list[str]:
    """The settings that are accepted with a smaller number, each with the largest such number, as in TOML."""
    ways = []
    numbers = [("context_length", cache.context_tokens, _CELLS), ("slots", cache.slots, 1)]
    if cache.form == "unified" or settings.cache_tokens is not None:
        numbers.append(("cache_tokens", cache.cache_tokens, _CELLS))
    for name, now, step in numbers:

        def is_accepted(number: int, name: str = name) -> bool:
            return accept(msgspec.structs.replace(settings, **{name: number}))

        if number := _largest(now, step, is_accepted):
            ways.append(f"{name} = {number}")
    return ways


def _largest(below: int, step: int, accept: Callable[[int], bool]) -> int:
    """A multiple of `step` that is accepted, the largest if all smaller ones are, too; 0 if there is none."""
    accepted, refused = 0, -(-below // step)
    while refused - accepted > 1:
        middle = (accepted + refused) // 2
        if accept(middle * step):
            accepted = middle
        else:
            refused = middle
    return accepted * step


def _of_tokens(settings: ModelSettings, tokens: int) -> ModelSettings:
    return msgspec.structs.replace(settings, context_length=tokens, cache_tokens=tokens)
