"""The form of a KV cache: a whole context for each slot where memory allows, and nothing configured is less."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.catalogue.kv_cache import (
    CACHE_BYTES,
    CACHE_SHARE,
    FEWEST_SLOTS,
    KvCache,
    context_tokens,
    kv_cache,
    smaller,
)
from suite.config import DEFAULT_SLOTS, ModelSettings
from suite.engine.gguf.estimate import estimate, kv_bytes_per_token
from suite.engine.gguf.file import GgufInfo, inspect
from suite.errors import InvalidConfiguration
from support.models import smollm2, tiny_model

GIB = 2**30
SMALL = inspect(smollm2())
"""23 KB a token."""
LARGE = msgspec.structs.replace(
    SMALL,
    context_tokens=32768,
    head_counts=(32,) * 32,
    kv_head_counts=(8,) * 32,
    key_length=128,
    value_length=128,
)
"""128 KiB a token, as a model of 8 billion parameters has."""


def described(cache: KvCache) -> tuple[str, int, int]:
    return cache.form, cache.slots, cache.cache_tokens


@pytest.mark.parametrize(
    ("info", "machine_gib", "expected"),
    [
        (SMALL, 64, ("separate", 8, 8 * 4096)),
        (SMALL, 8, ("separate", 4, 4 * 4096)),
        (SMALL, 2, ("unified", 8, 5825)),
        (LARGE, 64, ("separate", 6, 6 * 4096)),
        (LARGE, 8, ("unified", 8, 4096)),
    ],
)
def test_by_default_slots_have_a_whole_context_each_where_that_fits(
    info: GgufInfo, machine_gib: int, expected: tuple[str, int, int]
) -> None:
    assert described(kv_cache(ModelSettings(), info, int(machine_gib * GIB * 0.8))) == expected


def test_what_both_are_configured_is_had_up_to_the_memory_limit_and_told_beyond() -> None:
    settings = ModelSettings(slots=8, context_length=16384)
    assert described(kv_cache(settings, LARGE, 20 * GIB)) == ("separate", 8, 8 * 16384)
    beyond = kv_cache(settings, LARGE, 12 * GIB)
    assert described(beyond) == ("unified", 8, 16384)
    assert beyond.warning is not None
    assert "set slots to 6 or less, or context_length to 12,288 or less" in beyond.warning
    for corrected in (
        ModelSettings(slots=6, context_length=16384),
        ModelSettings(slots=8, context_length=12288),
    ):
        assert kv_cache(corrected, LARGE, 12 * GIB).form == "separate"


def test_a_configured_cache_is_not_exceeded() -> None:
    few, many = ModelSettings(cache_tokens=8192), ModelSettings(cache_tokens=16384 + 100)
    assert described(kv_cache(few, SMALL, 64 * GIB)) == ("unified", 8, 8192)
    assert described(kv_cache(many, SMALL, 64 * GIB)) == ("separate", 4, 16384)


def test_a_form_that_is_configured_is_had() -> None:
    assert kv_cache(ModelSettings(kv_cache="unified"), SMALL, 64 * GIB).form == "unified"
    assert described(kv_cache(ModelSettings(kv_cache="separate"), LARGE, GIB)) == ("separate", 1, 4096)
    settings = ModelSettings(kv_cache="separate", slots=16, cache_tokens=32768)
    with pytest.raises(
        InvalidConfiguration, match="cache_tokens to 65,536, or slots to 8, or context_length to 2,048"
    ):
        kv_cache(settings, SMALL, 64 * GIB)


def test_a_model_that_does_not_fit_says_which_settings_would() -> None:
    cache = kv_cache(ModelSettings(kv_cache="separate", slots=8, context_length=8192), LARGE, GIB)
    said = smaller(cache, LARGE, 2 * GIB)
    assert said == 'context_length = 6,144 or slots = 6 or kv_cache = "unified"'
    assert smaller(cache, LARGE, 9 * GIB) == ""


def test_without_attention_streams_cost_nothing(tmp_path: Path) -> None:
    info = msgspec.structs.replace(inspect(tiny_model(tmp_path / "tiny.gguf")), kv_head_counts=(0,))
    assert kv_cache(ModelSettings(), info, GIB).form == "separate"


counts = st.one_of(st.none(), st.integers(1, 64))
tokens = st.one_of(st.none(), st.integers(1, 40_000))


@given(counts, tokens, tokens, st.sampled_from(["auto", "separate", "unified"]), st.integers(0, 64 * GIB))
def test_nothing_configured_is_made_smaller_and_no_default_takes_more_than_its_budget(
    slots: int | None, context: int | None, cache_tokens: int | None, form: str, limit: int
) -> None:
    settings = msgspec.convert(
        {"slots": slots, "context_length": context, "cache_tokens": cache_tokens, "kv_cache": form},
        ModelSettings,
    )
    try:
        cache = kv_cache(settings, LARGE, limit)
    except InvalidConfiguration:
        assert form == "separate" and cache_tokens is not None
        return
    assert cache.slots == (slots or cache.slots) and cache.context_tokens == context_tokens(settings, LARGE)
    assert form in ("auto", cache.form)
    if cache.form == "unified":
        assert cache.cache_tokens >= max(cache.context_tokens, cache_tokens or 0)
        return
    assert cache.cache_tokens == cache.slots * cache.context_tokens
    if form == "auto":
        assert slots or FEWEST_SLOTS <= cache.slots <= DEFAULT_SLOTS
        taken = estimate(
            LARGE, cache_tokens=cache.context_tokens, batch_tokens=512, streams=cache.streams
        ).kv_bytes
        if cache_tokens is not None:
            assert cache.cache_tokens <= cache_tokens
        elif slots is None or context is None:
            assert taken <= max(CACHE_BYTES, limit * CACHE_SHARE)
        else:
            assert taken <= max(CACHE_BYTES, limit)
    assert kv_bytes_per_token(LARGE) == 131072
