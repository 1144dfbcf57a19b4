"""The form of a KV cache: a whole context for each slot where memory allows; nothing configured is less."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from suite.catalogue import Catalogue
from suite.catalogue.kv_cache import (
    CACHE_BYTES,
    CACHE_SHARE,
    FEWEST_SLOTS,
    KvCache,
    context_tokens,
    estimated,
    kv_cache,
    smaller,
)
from suite.config import DEFAULT_SLOTS, ModelSettings
from suite.domain.footprint import Footprint
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
    tensor_bytes=int(4.9 * GIB),
    tensor_bytes_by_type={"Q5_1": int(4.9 * GIB)},
)
"""128 KiB a token and 4.9 GiB, as a model of 8 billion parameters has."""
EMBEDDING = msgspec.structs.replace(LARGE, capabilities=("chat", "embedding"))


def described(cache: KvCache) -> tuple[str, int, int]:
    return cache.form, cache.slots, cache.cache_tokens


def test_small_heads_are_computed_without_flash_attention_while_the_scores_are_few() -> None:
    def is_used(info: GgufInfo, context: int) -> bool:
        return kv_cache(ModelSettings(context_length=context), info, 64 * GIB).flash_attention

    assert not is_used(SMALL, 4096)
    assert is_used(SMALL, 32768)
    assert is_used(LARGE, 4096)


@pytest.mark.parametrize(
    ("info", "machine_gib", "expected"),
    [
        (SMALL, 64, ("separate", 4, 4 * 4096)),
        (SMALL, 8, ("separate", 4, 4 * 4096)),
        (SMALL, 2, ("unified", 8, 5825)),
        (LARGE, 64, ("separate", 6, 6 * 4096)),
        (LARGE, 8, ("unified", 8, 4096)),
        (EMBEDDING, 64, ("separate", 1, 4096)),
        (EMBEDDING, 8, ("unified", 1, 4096)),
    ],
)
def test_by_default_slots_have_a_whole_context_each_where_that_fits(
    info: GgufInfo, machine_gib: int, expected: tuple[str, int, int]
) -> None:
    assert described(kv_cache(ModelSettings(), info, int(machine_gib * GIB * 0.8))) == expected


def needed(settings: ModelSettings, info: GgufInfo, limit: int) -> int:
    """The bytes of a model with these settings."""
    return estimated(kv_cache(settings, info, limit), settings, info).total_bytes


def applied(settings: ModelSettings, way: str) -> ModelSettings:
    """The settings with what a message proposes, which is TOML."""
    return msgspec.structs.replace(settings, **tomllib.loads(way.replace(" and ", "\n")))


def test_what_both_are_configured_is_had_up_to_the_memory_limit_and_told_beyond() -> None:
    settings = ModelSettings(slots=8, context_length=16384)
    assert described(kv_cache(settings, LARGE, 24 * GIB)) == ("separate", 8, 8 * 16384)
    beyond = kv_cache(settings, LARGE, 16 * GIB)
    assert described(beyond) == ("unified", 8, 16384)
    assert beyond.warning is not None
    assert "the memory limit is 16.00 GiB, so the slots share 16,384 tokens" in beyond.warning
    ways = beyond.warning.split(": ")[-1].split(" or ")
    assert ways == ["set context_length = 11008", "set slots = 5", "raise memory_limit_gb"]
    for way in ways[:-1]:
        corrected = applied(settings, way.removeprefix("set "))
        assert kv_cache(corrected, LARGE, 16 * GIB).form == "separate"


def test_no_number_of_slots_is_refused_while_a_larger_one_is_loaded() -> None:
    limit = int(12.8 * GIB)
    for slots in range(1, 65):
        assert needed(ModelSettings(slots=slots, context_length=8192), LARGE, limit) <= limit


def test_a_configured_cache_is_not_exceeded() -> None:
    few, many = ModelSettings(cache_tokens=8192), ModelSettings(cache_tokens=16384 + 100)
    assert described(kv_cache(few, SMALL, 64 * GIB)) == ("unified", 8, 8192)
    assert described(kv_cache(many, SMALL, 64 * GIB)) == ("separate", 4, 16384)


def test_a_form_that_is_configured_is_had() -> None:
    assert kv_cache(ModelSettings(kv_cache="unified"), SMALL, 64 * GIB).form == "unified"
    assert described(kv_cache(ModelSettings(kv_cache="separate"), LARGE, GIB)) == ("separate", 1, 4096)
    settings = ModelSettings(kv_cache="separate", slots=16, cache_tokens=32768)
    with pytest.raises(
        InvalidConfiguration, match="set cache_tokens = 65536 or slots = 8 or context_length = 2048"
    ):
        kv_cache(settings, SMALL, 64 * GIB)


async def test_settings_that_contradict_each_other_make_a_model_that_cannot_be_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    settings = {"tiny": ModelSettings(kv_cache="separate", slots=4, context_length=128, cache_tokens=256)}
    catalogue = Catalogue.open([tmp_path], settings, tmp_path, limits=Footprint(GIB))
    await catalogue.scan()
    model = catalogue.models["tiny"]
    assert isinstance(model.error, InvalidConfiguration)
    assert model.kv_cache is None
    assert model.info is not None  # the file is as good as ever
    assert "model tiny cannot be loaded: " + model.error.message in caplog.text


def test_a_model_that_does_not_fit_says_which_settings_would() -> None:
    settings = ModelSettings(kv_cache="separate", slots=8, context_length=8192)
    said = 'context_length = 5888 or slots = 5 or kv_cache = "unified"'
    assert smaller(settings, LARGE, 11 * GIB) == said
    assert smaller(settings, LARGE, 4 * GIB) == ""
    both = ModelSettings(context_length=65536, cache_tokens=65536)
    assert smaller(both, LARGE, 11 * GIB).endswith(" or context_length = 48128 and cache_tokens = 48128")


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


@given(
    st.sampled_from([LARGE, SMALL]),
    st.one_of(st.none(), st.integers(1, 64)),
    st.one_of(st.none(), st.integers(1, 1 << 20)),
    st.one_of(st.none(), st.integers(1, 1 << 20)),
    st.sampled_from(["auto", "separate", "unified"]),
    st.integers(0, 24 * GIB),
)
def test_what_a_refusal_proposes_fits(
    info: GgufInfo, slots: int | None, context: int | None, cache_tokens: int | None, form: str, limit: int
) -> None:
    settings = msgspec.convert(
        {"slots": slots, "context_length": context, "cache_tokens": cache_tokens, "kv_cache": form},
        ModelSettings,
    )
    try:
        assume(needed(settings, info, limit) > limit)
    except InvalidConfiguration:
        return
    for way in filter(None, smaller(settings, info, limit).split(" or ")):
        assert needed(applied(settings, way), info, limit) <= limit, way
