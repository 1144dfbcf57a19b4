"""Scores of a real context over a small model with a ranking head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import gguf
import msgspec
import pytest

from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.ranking import Pairs, Ranker
from suite.errors import CannotRerank, PromptTooLong
from support.encoder import CONTEXT, tiny_bert
from support.models import tiny_model
from support.reranker import tiny_reranker

SETTINGS = ContextSettings(
    context_tokens=CONTEXT, cache_tokens=CONTEXT, batch_tokens=CONTEXT, gpu_layers=0, threads=1, slots=1
)
DOCUMENTS = ("a stone", "the shore of the sea", "a tree has leaves", "the sea")
ALIKE = 1e-3
"""How far scores differ by the company that a pair has in its step: keys and values are of 16 bits."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    path = tiny_bert(tmp_path_factory.mktemp("ranking") / "ranker.gguf", pooling=gguf.PoolingType.RANK)
    model = LlamaModel.load(str(path), SETTINGS, lambda _: None)
    yield model
    model.free()


def scores(ranker: Ranker, pairs: Sequence[Sequence[int]], *, raw: bool = False) -> tuple[float, ...]:
    steps = ranker.rank(pairs, raw=raw)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: tuple[float, ...] = end.value
            return found


def test_a_document_has_the_same_score_alone_and_among_others(model: LlamaModel) -> None:
    pairs, together = check_scores(model)
    raw = scores(Ranker(model, SETTINGS), pairs, raw=True)
    assert sorted(range(4), key=raw.__getitem__) == sorted(range(4), key=together.__getitem__)
    assert math.isclose(1 / (1 + math.exp(-raw[0])), together[0], abs_tol=ALIKE)


@pytest.mark.parametrize("prompt_step_tokens", [256, 16])
def test_a_decoder_ranks_by_the_template_of_its_file_in_one_step_or_in_several(
    tmp_path: Path, prompt_step_tokens: int
) -> None:
    settings = msgspec.structs.replace(SETTINGS, prompt_step_tokens=prompt_step_tokens)
    model = LlamaModel.load(str(tiny_reranker(tmp_path / "reranker.gguf")), settings, lambda _: None)
    pairs, together = check_scores(model)
    assert scores(Ranker(model, settings), pairs, raw=True) == pytest.approx(together, abs=ALIKE)
    named = Pairs(model.vocabulary, CONTEXT).tokens("{document}", "</s>{query}")
    assert model.vocabulary.tokenize("</s>", begins=False)[-1] not in named, "a name in a document is text"
    assert "query: {document} document: </s>{query} answer:" in model.vocabulary.detokenize(named)
    model.free()


def check_scores(model: LlamaModel) -> tuple[list[list[int]], tuple[float, ...]]:
    ranker = Ranker(model, model.settings)
    made = Pairs(model.vocabulary, CONTEXT)
    pairs = [made.tokens("the sea", document) for document in DOCUMENTS]
    together = scores(ranker, pairs)
    assert all(0 < score < 1 for score in together)
    assert len({round(score, 5) for score in together}) == len(DOCUMENTS), "the documents differ"
    for tokens, score in zip(pairs, together, strict=True):
        assert math.isclose(scores(ranker, [tokens])[0], score, abs_tol=ALIKE)
    return pairs, together


def test_what_is_ranked_is_the_query_and_the_document_between_the_marks_of_the_model(
    model: LlamaModel,
) -> None:
    tokens = Pairs(model.vocabulary, CONTEXT).tokens("a", "b")
    pieces = [model.vocabulary.piece(token, special=True).decode().strip() for token in tokens]
    assert pieces == ["[CLS]", "a", "[SEP]", "b", "[SEP]"]
    named = Pairs(model.vocabulary, CONTEXT).tokens("a", "[SEP]")
    assert named.count(tokens[2]) == 2, "a name of a mark in a document is text"


def test_a_document_that_is_too_long_is_named(model: LlamaModel) -> None:
    with pytest.raises(PromptTooLong, match="document 1 with the query has 129 tokens"):
        scores(Ranker(model, SETTINGS), [[5] * 128, [5] * 129])
    documents = iter(["b", "b " * CONTEXT, "b"])
    with pytest.raises(PromptTooLong, match="document 1 with the query has"):
        list(Pairs(model.vocabulary, CONTEXT).all("a", documents))
    assert list(documents) == ["b"], "nobody made the tokens of what follows"
    with pytest.raises(PromptTooLong, match="the query has"):
        list(Pairs(model.vocabulary, CONTEXT).all("a " * (2 * CONTEXT), documents))


def test_a_model_without_a_head_does_not_rank(tmp_path: Path) -> None:
    model = LlamaModel.load(str(tiny_model(tmp_path / "tiny.gguf")), SETTINGS, lambda _: None)
    with pytest.raises(CannotRerank):
        Ranker(model, SETTINGS)
    model.free()
