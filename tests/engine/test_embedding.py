"""Vectors of texts, from real contexts over small models of each kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import gguf
import pytest

from suite.engine.embedding import Embedder
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.errors import CannotEmbed, EmptyPrompt, InvalidRequest, PromptTooLong
from support.encoder import tiny_bert
from support.models import gemma, tiny_model
from support.recurrent import tiny_mamba

TEXTS = ("the sea", "a tree has leaves and in autumn they fall one by one", "the sea", "s")
ALIKE = 1e-3
"""How far components differ by the company that an input has in its step: keys and values are of 16 bits."""
Vector: TypeAlias = tuple[float, ...]
Vectors: TypeAlias = tuple[Vector, ...]
MAKERS: dict[str, Callable[[Path], Path]] = {
    "decoder": tiny_model,
    "recurrent": tiny_mamba,
    "encoder": tiny_bert,
}


@contextmanager
def embedding(
    path: Path, *, context_tokens: int = 128, prompt_step_tokens: int = 128
) -> Iterator[tuple[Embedder, LlamaModel]]:
    settings = ContextSettings(
        context_tokens=context_tokens,
        prompt_step_tokens=prompt_step_tokens,
        cache_tokens=context_tokens,
        batch_tokens=context_tokens,
        gpu_layers=0,
        threads=1,
        slots=1,
    )
    model = LlamaModel.load(str(path), settings, lambda _: None)
    yield Embedder(model, settings), model
    model.free()


def vectors(embedder: Embedder, inputs: Sequence[Sequence[int]], *, normalize: bool = True) -> Vectors:
    return finished(embedder.embed(inputs, normalize))


def finished(steps: Generator[None, None, Vectors]) -> Vectors:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Vectors = end.value
            return found


def pauses(steps: Generator[None, None, Vectors]) -> int:
    return sum(1 for _ in steps)


def alike(left: Vector, right: Vector) -> bool:
    return max(abs(a - b) for a, b in zip(left, right, strict=True)) < ALIKE


def cosine(left: Vector, right: Vector) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("kind", MAKERS)
def test_equal_texts_have_equal_vectors_alone_or_in_a_batch(tmp_path: Path, kind: str) -> None:
    with embedding(MAKERS[kind](tmp_path / "model.gguf")) as (embedder, model):
        inputs = [model.vocabulary.tokenize(text) for text in TEXTS]
        together = vectors(embedder, inputs)
        assert [len(vector) for vector in together] == [embedder.dimensions] * len(TEXTS)
        assert alike(together[0], together[2])
        for tokens, vector in zip(inputs, together, strict=True):
            assert alike(vectors(embedder, [tokens])[0], vector)
        assert cosine(together[0], together[1]) < 0.98
        many = vectors(embedder, inputs * 20)
        assert all(alike(vector, together[index % 4]) for index, vector in enumerate(many))


@pytest.mark.parametrize("kind", MAKERS)
def test_vectors_have_length_one_if_they_are_to(tmp_path: Path, kind: str) -> None:
    with embedding(MAKERS[kind](tmp_path / "model.gguf")) as (embedder, model):
        tokens = model.vocabulary.tokenize(TEXTS[1])
        (unit,), (raw,) = vectors(embedder, [tokens]), vectors(embedder, [tokens], normalize=False)
        assert math.isclose(math.hypot(*unit), 1.0, abs_tol=1e-6)
        assert alike(tuple(value / math.hypot(*raw) for value in raw), unit)
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
        whole = vectors(embedder, inputs)
    monkeypatch.setattr("suite.engine.pooling.STEP_TOKENS", 32)
    with embedding(path) as (embedder, _):
        for expected, vector in zip(whole, vectors(embedder, inputs), strict=True):
            assert alike(expected, vector)


def test_the_pooling_of_the_file_is_used(tmp_path: Path) -> None:
    found = {}
    for pooling in (gguf.PoolingType.MEAN, gguf.PoolingType.CLS, gguf.PoolingType.LAST):
        with embedding(tiny_model(tmp_path / f"{pooling.name}.gguf", pooling=pooling)) as (embedder, model):
            end = model.vocabulary.tokenize("the sea")
            found[pooling.name] = vectors(embedder, [end, [end[0], *end[2:]]])
    assert alike(*found["CLS"])  # both begin with the same token, and see nothing after it
    assert not alike(*found["LAST"])
    assert not alike(*found["MEAN"])
    assert not alike(found["MEAN"][0], found["LAST"][0])


def test_what_ranks_makes_no_embeddings(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", pooling=gguf.PoolingType.RANK)
    with pytest.raises(CannotEmbed), embedding(path):
        pass


@pytest.mark.parametrize("kind", MAKERS)
def test_vectors_are_cut_to_the_dimensions_that_are_wanted(tmp_path: Path, kind: str) -> None:
    with embedding(MAKERS[kind](tmp_path / "model.gguf")) as (embedder, model):
        tokens = model.vocabulary.tokenize(TEXTS[0])
        (whole,), (cut,) = (
            finished(embedder.embed([tokens], dimensions=count)) for count in (embedder.dimensions, 8)
        )
        assert len(cut) == 8
        assert math.isclose(math.hypot(*cut), 1.0, abs_tol=1e-6)
        assert alike(tuple(value / math.hypot(*whole[:8]) for value in whole[:8]), cut)
        with pytest.raises(InvalidRequest, match=f"vectors have {embedder.dimensions}"):
            finished(embedder.embed([tokens], dimensions=embedder.dimensions + 1))


@pytest.mark.parametrize("kind", MAKERS)
def test_an_input_that_is_empty_or_too_long_is_named(tmp_path: Path, kind: str) -> None:
    with embedding(MAKERS[kind](tmp_path / "model.gguf"), context_tokens=40) as (embedder, _):
        with pytest.raises(EmptyPrompt, match="input 1 "):
            vectors(embedder, [[5], []])
        with pytest.raises(PromptTooLong, match="input 2 has 41 tokens"):
            vectors(embedder, [[5], [5] * 40, [5] * 41])
        assert len(vectors(embedder, [[5], [5] * 40])) == 2


def test_it_pauses_after_as_many_tokens_as_a_step_has_of_a_prompt(tmp_path: Path) -> None:
    with embedding(tiny_model(tmp_path / "tiny.gguf"), prompt_step_tokens=32) as (embedder, _):
        assert pauses(embedder.embed([[5] * 32])) == 0
        assert pauses(embedder.embed([[5] * 100, [5] * 8])) == 4
        assert pauses(embedder.embed([[5] * 8] * 32)) == 7


def test_while_others_wait_its_steps_are_short_and_its_vectors_the_same(tmp_path: Path) -> None:
    with embedding(tiny_model(tmp_path / "tiny.gguf")) as (embedder, _):
        inputs = [[5, 6, 7] * 30, [8] * 20]
        short: list[Vector] = []

        def steps() -> Generator[None, None, Vectors]:
            short.extend((yield from embedder.embed(inputs, spare_seconds=lambda: 1e-9)))
            return ()

        assert pauses(steps()) >= 9, "as few tokens as are never divided"
        for vector, expected in zip(short, vectors(embedder, inputs), strict=True):
            assert alike(vector, expected)


def test_a_step_is_chosen_when_it_begins(tmp_path: Path) -> None:
    with embedding(tiny_model(tmp_path / "tiny.gguf")) as (embedder, _):
        spare = math.inf
        steps = embedder.embed([[5] * 90, [6] * 90], spare_seconds=lambda: spare)
        next(steps)
        spare = 1e-9
        assert pauses(steps) >= 9, "an answer began in the meantime"


def test_it_pauses_after_an_input_that_is_to_be_seen_whole(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path / "bert.gguf")
    with embedding(path, prompt_step_tokens=32) as (embedder, _):
        assert pauses(embedder.embed([[5] * 100])) == 0
        assert pauses(embedder.embed([[5] * 100, [5] * 8, [5] * 100])) == 2
        assert pauses(embedder.embed([[5] * 8] * 8)) == 1
        in_steps = vectors(embedder, [[5, 6] * 50, [7] * 8])
    with embedding(path) as (embedder, _):
        for vector, expected in zip(in_steps, vectors(embedder, [[5, 6] * 50, [7] * 8]), strict=True):
            assert alike(vector, expected)


def test_one_that_is_given_up_between_two_steps_leaves_nothing(tmp_path: Path) -> None:
    with embedding(tiny_model(tmp_path / "tiny.gguf"), prompt_step_tokens=32) as (embedder, _):
        expected = vectors(embedder, [[7] * 100])
        given_up = embedder.embed([[5] * 100])
        next(given_up)
        given_up.close()
        assert vectors(embedder, [[7] * 100]) == expected


def test_texts_of_one_meaning_are_nearer_than_others() -> None:
    with embedding(gemma(), context_tokens=64) as (embedder, model):
        texts = ("The cat sat on the mat.", "A feline rested on a rug.", "Stock markets fell sharply today.")
        cat, feline, stocks = vectors(embedder, [model.vocabulary.tokenize(text) for text in texts])
        assert embedder.dimensions == len(cat) == 640
        assert cosine(cat, feline) > 0.8 > cosine(cat, stocks)
