"""Vectors of texts, from real contexts over small models of each kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import pytest

from suite.engine.embedding import Embedder
from suite.engine.model import ContextSettings, Model
from suite.errors import CannotEmbed, EmptyPrompt, PromptTooLong
from support.encoder import tiny_bert
from support.models import gemma, tiny_model
from support.recurrent import tiny_mamba

TEXTS = ("the sea", "a tree has leaves and in autumn they fall one by one", "the sea", "s")
ALIKE = 1e-3
"""How far components differ by the company that an input has in its step: keys and values are of 16 bits."""
MAKERS: dict[str, Callable[[Path], Path]] = {
    "decoder": tiny_model,
    "recurrent": tiny_mamba,
    "encoder": tiny_bert,
}


@contextmanager
def embedding(path: Path, *, context_tokens: int = 128) -> Iterator[tuple[Embedder, Model]]:
    settings = ContextSettings(
        context_tokens=context_tokens,
        cache_tokens=context_tokens,
        batch_tokens=context_tokens,
        gpu_layers=0,
        threads=1,
        slots=1,
    )
    model = Model.load(str(path), settings, lambda _: None)
    embedder = Embedder(model, settings)
    yield embedder, model
    embedder.free()
    model.free()


def alike(left: list[float], right: list[float]) -> bool:
    return max(abs(a - b) for a, b in zip(left, right, strict=True)) < ALIKE


def cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("kind", MAKERS)
def test_equal_texts_have_equal_vectors_alone_or_in_a_batch(tmp_path: Path, kind: str) -> None:
    with embedding(MAKERS[kind](tmp_path / "model.gguf")) as (embedder, model):
        inputs = [model.vocabulary.tokenize(text) for text in TEXTS]
        together = embedder.embed(inputs)
        assert [len(vector) for vector in together] == [embedder.dimensions] * len(TEXTS)
        assert alike(together[0], together[2])
        for tokens, vector in zip(inputs, together, strict=True):
            assert alike(embedder.embed([tokens])[0], vector)
        assert cosine(together[0], together[1]) < 0.98
        many = embedder.embed(inputs * 20)
        assert all(alike(vector, together[index % 4]) for index, vector in enumerate(many))


@pytest.mark.parametrize("kind", MAKERS)
def test_vectors_have_length_one_if_they_are_to(tmp_path: Path, kind: str) -> None:
    with embedding(MAKERS[kind](tmp_path / "model.gguf")) as (embedder, model):
        tokens = model.vocabulary.tokenize(TEXTS[1])
        (unit,), (raw,) = embedder.embed([tokens]), embedder.embed([tokens], normalize=False)
        assert math.isclose(math.hypot(*unit), 1.0, abs_tol=1e-6)
        assert alike([value / math.hypot(*raw) for value in raw], unit)
        assert not math.isclose(math.hypot(*raw), 1.0, abs_tol=1e-3)


@pytest.mark.parametrize(
    "pooling", [None, gguf.PoolingType.MEAN, gguf.PoolingType.CLS, gguf.PoolingType.LAST]
)
def test_an_input_of_several_steps_is_as_one_of_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooling: gguf.PoolingType | None
) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", pooling=pooling)
    with embedding(path) as (embedder, model):
        inputs = [model.vocabulary.tokenize("on the sea in autumn " * times) for times in (1, 8, 2)]
        assert 64 < len(inputs[1]) < 128
        whole = embedder.embed(inputs)
    monkeypatch.setattr("suite.engine.embedding.STEP_TOKENS", 32)
    with embedding(path) as (embedder, _):
        for expected, vector in zip(whole, embedder.embed(inputs), strict=True):
            assert alike(expected, vector)


def test_the_pooling_of_the_file_is_used(tmp_path: Path) -> None:
    vectors = {}
    for pooling in (gguf.PoolingType.MEAN, gguf.PoolingType.CLS, gguf.PoolingType.LAST):
        with embedding(tiny_model(tmp_path / f"{pooling.name}.gguf", pooling=pooling)) as (embedder, model):
            end = model.vocabulary.tokenize("the sea")
            vectors[pooling.name] = embedder.embed([end, [end[0], *end[2:]]])
    assert alike(*vectors["CLS"])  # both begin with the same token, and see nothing after it
    assert not alike(*vectors["LAST"])
    assert not alike(*vectors["MEAN"])
    assert not alike(vectors["MEAN"][0], vectors["LAST"][0])


def test_what_ranks_makes_no_embeddings(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", pooling=gguf.PoolingType.RANK)
    with pytest.raises(CannotEmbed), embedding(path):
        pass


@pytest.mark.parametrize("kind", MAKERS)
def test_an_input_that_is_empty_or_too_long_is_named(tmp_path: Path, kind: str) -> None:
    with embedding(MAKERS[kind](tmp_path / "model.gguf"), context_tokens=40) as (embedder, _):
        with pytest.raises(EmptyPrompt, match="input 1 "):
            embedder.embed([[5], []])
        with pytest.raises(PromptTooLong, match="input 2 has 41 tokens"):
            embedder.embed([[5], [5] * 40, [5] * 41])
        assert len(embedder.embed([[5], [5] * 40])) == 2


def test_memory_that_was_given_back_is_taken_again(tmp_path: Path) -> None:
    with embedding(tiny_model(tmp_path / "tiny.gguf")) as (embedder, model):
        tokens = model.vocabulary.tokenize(TEXTS[0])
        first = embedder.embed([tokens])
        embedder.free()
        embedder.free()
        assert embedder.embed([tokens]) == first


def test_texts_of_one_meaning_are_nearer_than_others() -> None:
    with embedding(gemma(), context_tokens=64) as (embedder, model):
        texts = ("The cat sat on the mat.", "A feline rested on a rug.", "Stock markets fell sharply today.")
        cat, feline, stocks = embedder.embed([model.vocabulary.tokenize(text) for text in texts])
        assert embedder.dimensions == len(cat) == 640
        assert cosine(cat, feline) > 0.8 > cosine(cat, stocks)
