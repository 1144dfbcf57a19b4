"""Scores of documents for a query, by a model with a ranking head (a cross-encoder, or reranker)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from suite.engine.backend import Cores
from suite.engine.bindings import lib
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.pooling import Pooler, architecture, named_pooling
from suite.engine.prompts.markers import Markers
from suite.engine.vocabulary import Vocabulary
from suite.errors import CannotRerank, PromptTooLong

_CHOOSERS = ("qwen3", "qwen3vl")
"""Architectures whose head chooses between yes and no: llama.cpp gives the probabilities of both."""
_PLACE = re.compile(r"\{(query|document)\}")


class Ranker:
    """Scores documents with one model. Everything blocks, and only the engine's thread may use it."""

    def __init__(self, model: LlamaModel, settings: ContextSettings, cores: Cores | None = None) -> None:
        """Allocates nothing yet. Raises CannotRerank for a model that has no ranking head.

        `cores` says with how many threads each step is computed; None: with those of the settings.
        """
        if named_pooling(model) != lib.LLAMA_POOLING_TYPE_RANK:
            raise CannotRerank
        self._says_probability = architecture(model) in _CHOOSERS
        self.context_tokens = settings.context_tokens
        """The longest query with its document, in tokens."""
        self._pooler = Pooler(
            model,
            settings,
            cores,
            pooling=lib.LLAMA_POOLING_TYPE_RANK,
            values=lib.llama_model_n_cls_out(lib.llama_get_model(model.context)),
            context_tokens=self.context_tokens,
        )

    def rank(
        self,
        pairs: Sequence[Sequence[int]],
        *,
        raw: bool = False,
        spare_seconds: Callable[[], float] = lambda: math.inf,
    ) -> Generator[None, None, tuple[float, ...]]:
        """Return a score for each pair of query and document, the tokens that `Pairs` makes of them.

        It is between 0 and 1, or with `raw` what the model's head says. The generator yields between two
        steps; `spare_seconds` says how long the next one may take (`Pooler.pool`).

        Exhaust or close it before calling `rank` again. Raises PromptTooLong, which names the index of the
        document, or GenerationFailed.
        """
        for index, tokens in enumerate(pairs):
            _check(f"document {index} with the query", tokens, self.context_tokens)
        values = yield from self._pooler.pool(pairs, spare_seconds=spare_seconds)
        if raw or self._says_probability:
            return tuple(value for value, *_ in values)
        return tuple(_sigmoid(value) for value, *_ in values)


class Pairs:
    """Makes the input of a ranking head from a query and a document, for one model.

    By the template in the model's file, or else of both texts with what the model expects after a text.
    Names of control tokens in query and document are text.
    """

    def __init__(self, vocabulary: Vocabulary, context_tokens: int) -> None:
        """`context_tokens`: the longest query with its document."""
        self._vocabulary = vocabulary
        self._context_tokens = context_tokens
        self._template = vocabulary.rerank_template
        self._markers = None if self._template is None else Markers(vocabulary, self._template)

    def all(self, query: str, documents: Iterable[str]) -> Iterator[list[int]]:
        """The tokens of a query with each document, made one at a time.

        Raises PromptTooLong for a query that is too long alone, or at the first document that is with it.
        """
        _check(
            "the query", self._vocabulary.tokenize(query, begins=False, special=False), self._context_tokens
        )
        for index, document in enumerate(documents):
            tokens = self.tokens(query, document)
            _check(f"document {index} with the query", tokens, self._context_tokens)
            yield tokens

    def tokens(self, query: str, document: str) -> list[int]:
        """The tokens of a query with a document."""
        if self._template is None or self._markers is None:
            texts = (
                self._vocabulary.tokenize(each, begins=False, special=False) for each in (query, document)
            )
            return self._vocabulary.pair(*texts)
        broken = self._markers.broken([{"role": "user", "query": query, "document": document}], ())
        (given,) = broken.messages
        text = _PLACE.sub(lambda place: given[place[1]], self._template)
        return self._markers.tokens(text, broken.mark, begins=False)


def _check(what: str, tokens: Sequence[int], most: int) -> None:
    """Raise PromptTooLong if this is more than the model reads."""
    if len(tokens) > most:
        raise PromptTooLong(
            f"{what} has {len(tokens)} tokens and this model reads at most {most}: shorten it, or split it"
        )


def _sigmoid(value: float) -> float:
    """Computed without overflow for large negative values."""
    power = math.exp(-abs(value))
    return (1 if value >= 0 else power) / (1 + power)
