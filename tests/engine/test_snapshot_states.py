"""States of real models, through the store and into another context."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from suite.engine.backend import BatchEntry
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.snapshots.folder import key_of
from suite.messages.actions.status import KvCacheForm
from support.models import gemma, tiny_model
from support.recurrent import tiny_mamba
from support.snapshots import PATIENCE, snapshots

LIMIT = 0.05
"""By how much logits of the same tokens may differ where they lie elsewhere in the cache."""

CORRELATION = 0.96
"""Of the logits of one token of a real model, far from a wrong state's 0.49. The noise of another place in
the cache leaves 0.993 to 1, by the processor and the token (`test_reference` measures it)."""

PROMPT = [17 + (number * number) % 200 for number in range(600)]


@contextmanager
def model(
    path: Path,
    *,
    tokens: int = 128,
    form: KvCacheForm = "unified",
    slots: int = 3,
    flash_attention: bool = True,
) -> Iterator[LlamaModel]:
    settings = ContextSettings(
        context_tokens=tokens,
        cache_tokens=tokens,
        kv_cache=form,
        flash_attention=flash_attention,
        batch_tokens=512,
        gpu_layers=0,
        threads=1,
        slots=slots,
    )
    loaded = LlamaModel.load(str(path), settings, lambda _fraction: None)
    try:
        yield loaded
    finally:
        loaded.free()


def decode(model: LlamaModel, sequence: int, tokens: list[int], position: int = 0) -> list[float]:
    """The logits after these tokens."""
    for begin in range(0, len(tokens), 512):
        part = BatchEntry(sequence, tokens[begin : begin + 512], position + begin, wants_logits=True)
        assert model.decode([part])
    return model.logits()


def distance(left: list[float], right: list[float]) -> float:
    return max(abs(one - other) for one, other in zip(left, right, strict=True))


@pytest.mark.parametrize("form", ["unified", "separate"])
@pytest.mark.parametrize("make", [tiny_model, tiny_mamba])
def test_a_sequence_goes_on_in_another_context_as_it_would_have_in_its_own(
    tmp_path: Path, make: Callable[[Path], Path], form: KvCacheForm
) -> None:
    file = make(tmp_path / "model.gguf")
    with model(file, form=form) as first, model(file, form=form) as second:
        prompt = PROMPT[:60]
        decode(first, 0, prompt)
        store = snapshots(tmp_path)
        store.put("a", prompt, first.save(0), min_prefix=first.min_saved_prefix(0))
        store.close(PATIENCE)
        store = snapshots(tmp_path)
        assert (store.find(prompt[:50], "a") is not None) == first.can_share
        found = store.find([*prompt, 5], "a")
        assert found is not None and found.tokens == 60
        payload = store.load(found)
        store.close()
        assert payload is not None
        decode(second, 0, prompt[:7])
        assert second.restore(2, payload)
        assert second.length(2) == 60
        assert distance(decode(second, 2, [5], 60), decode(first, 0, [5], 60)) <= LIMIT
        assert second.truncate(2, 30) == first.can_share
        if second.can_share:
            assert distance(decode(second, 2, [9], 30), decode(first, 1, [*prompt[:30], 9])) <= LIMIT


@pytest.mark.parametrize("form", ["unified", "separate"])
def test_the_state_of_a_sequence_that_shares_its_beginning_is_whole(
    tmp_path: Path, form: KvCacheForm
) -> None:
    file = tiny_model(tmp_path / "model.gguf")
    with model(file, form=form) as first, model(file, form=form) as second:
        decode(first, 0, PROMPT[:30])
        first.copy_prefix(0, 1, 20)
        decode(first, 1, [5, 6, 7], 20)
        assert second.restore(0, first.save(1))
        assert second.length(0) == 23
        assert distance(decode(second, 0, [8], 23), decode(first, 1, [8], 23)) <= LIMIT


def test_a_state_for_which_there_is_no_room_or_that_is_none_leaves_the_sequence_empty(tmp_path: Path) -> None:
    file = tiny_model(tmp_path / "model.gguf")
    with model(file, tokens=512) as first, model(file, tokens=256) as small:
        decode(first, 0, PROMPT[:400])
        state = first.save(0)
        for bad in (state, state[: len(state) // 2], b"", b"nothing"):
            assert not small.restore(1, bad)
            assert small.length(1) == 0
        decode(small, 1, [3, 4])
        assert small.length(1) == 2


def test_a_state_fits_into_a_cache_of_as_many_streams_only(tmp_path: Path) -> None:
    file = tiny_model(tmp_path / "model.gguf")
    with (
        model(file, form="separate") as three,
        model(file) as one,
        model(file, form="separate", slots=2) as two,
    ):
        decode(three, 2, PROMPT[:30])
        state = three.save(2)
        assert three.restore(0, state) and three.length(0) == 30
        assert not one.restore(0, state) and one.length(0) == 0
        assert not two.restore(0, state) and two.length(0) == 0
        decode(one, 0, PROMPT[:30])
        assert not three.restore(1, one.save(0)) and three.length(1) == 0
    keys = {key_of("content"), key_of("content", streams=3), key_of("content", streams=2)}
    assert len(keys) == 3


def test_a_state_is_restored_only_for_the_same_attention(tmp_path: Path) -> None:
    file = tiny_model(tmp_path / "model.gguf")
    with model(file) as flash, model(file, flash_attention=False) as plain:
        for one, other in ((flash, plain), (plain, flash)):
            decode(one, 0, PROMPT[:30])
            state = one.save(0)
            assert one.restore(1, state) and one.length(1) == 30
            assert not other.restore(1, state) and other.length(1) == 0
    assert key_of("content") != key_of("content", flash_attention=False)


def test_separate_sequences_have_room_for_a_context_each(tmp_path: Path) -> None:
    with model(tiny_model(tmp_path / "model.gguf"), tokens=256, form="separate") as loaded:
        for sequence in range(3):
            decode(loaded, sequence, PROMPT[:256])
        assert not loaded.decode([BatchEntry(1, [5], 256, wants_logits=True)])
        assert [loaded.length(sequence) for sequence in range(3)] == [256] * 3


@pytest.mark.parametrize(
    "make", [tiny_model, tiny_mamba, lambda _: gemma()], ids=["whole", "recurrent", "window"]
)
def test_sequences_that_change_places_lose_nothing(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """They are saved, copied, restored over and cut back as if they had always been there."""
    with model(make(tmp_path / "model.gguf"), tokens=640, form="separate", slots=4) as loaded:
        long, short = PROMPT, PROMPT[100:140]
        decode(loaded, 0, [*short, 3])  # the reference, in a place that nothing moves to
        of_short = loaded.logits()
        of_long = [] if loaded.can_share else decode(loaded, 1, [*long, 3])
        of_cut = decode(loaded, 2, [*long[:60], 9])
        for sequence in range(4):
            assert loaded.truncate(sequence, 0)
        decode(loaded, 0, long)
        decode(loaded, 1, short)
        loaded.exchange(0, 1)
        loaded.exchange(1, 3)
        assert [loaded.length(sequence) for sequence in range(4)] == [40, 0, 0, 600]
        assert loaded.restore(1, loaded.save(0)), "saved before anything was decoded"
        if loaded.can_share:
            loaded.copy_prefix(3, 2, 60)
            assert loaded.length(2) == 60
            assert loaded.truncate(3, 0) and loaded.restore(3, loaded.save(1)), "over what is to be copied"
            place = 2
            if loaded.exchange_steps(2, 3) < math.inf:
                loaded.exchange(2, 3)
                place = 3
            assert alike(decode(loaded, place, [9], 60), of_cut)
        else:
            assert alike(decode(loaded, 3, [3], 600), of_long)
        assert alike(decode(loaded, 0, [3], 40), of_short)
        assert alike(decode(loaded, 1, [3], 40), of_short)


def test_where_no_stream_is_free_long_sequences_behind_a_window_stay_where_they_are() -> None:
    with model(gemma(), tokens=128, form="separate", slots=2) as loaded:
        decode(loaded, 0, PROMPT[:20])
        assert loaded.exchange_steps(0, 1) < 1
        decode(loaded, 1, PROMPT[:20])
        assert loaded.exchange_steps(0, 1) == math.inf


def alike(left: list[float], right: list[float]) -> bool:
    return bool(np.corrcoef(left, right)[0, 1] > CORRELATION)


@pytest.mark.parametrize("form", ["unified", "separate"])
def test_behind_a_window_a_restored_state_goes_on_but_is_neither_cut_back_nor_shared(
    form: KvCacheForm,
) -> None:
    store = snapshots(memory_bytes=1 << 30)
    with model(gemma(), tokens=1280, form=form) as loaded:
        decode(loaded, 0, PROMPT[:100])
        assert loaded.min_saved_prefix(0) == 0
        short = loaded.save(0)
        decode(loaded, 0, PROMPT[100:], 100)
        assert (loaded.min_prefix(0), loaded.min_saved_prefix(0)) == (0, 600)
        store.put("a", PROMPT, loaded.save(0), min_prefix=loaded.min_saved_prefix(0))
        assert store.find(PROMPT[:-1], "a") is None
        found = store.find([*PROMPT, 5], "a")
        assert found is not None
        payload = store.load(found)
        assert payload is not None and loaded.restore(1, payload)
        assert loaded.min_prefix(1) == 600
        # llama.cpp would do it, and then give wrong logits (correlation 0.49) without a word about it.
        assert not loaded.truncate(1, 60)
        loaded.copy_prefix(1, 2, 60)
        assert (loaded.length(1), loaded.length(2)) == (600, 0)
        restored, original = decode(loaded, 1, [5], 600), decode(loaded, 0, [5], 600)
        assert np.corrcoef(restored, original)[0, 1] > CORRELATION
        # As long as the window sees everything, nothing is missing.
        assert loaded.truncate(0, 0) and loaded.truncate(1, 0) and loaded.restore(2, short)
        assert loaded.truncate(2, 30)
        restored, original = decode(loaded, 2, [9], 30), decode(loaded, 0, [*PROMPT[:30], 9])
        assert np.corrcoef(restored, original)[0, 1] > CORRELATION
