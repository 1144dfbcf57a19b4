"""Choosing the next token of one generation.

Bias and penalties, then the likeliest tokens, then llama.cpp's own chain over them: top-k, typical, top-p,
min-p, temperature, a draw with the seed. The order is that of llama.cpp's common sampler.

With a grammar, as there: a token is drawn without it first, for the grammar allows most tokens that a model
likes, and only when it is refused is one drawn among those that the grammar allows. To ask it about all of a
vocabulary of 262,144 takes 60 to 140 ms, so it is asked about the likeliest first, and about all only where
these do not suffice. It lives in a process of its own (`grammar_session`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from suite.engine.bindings import lib
from suite.engine.vocabulary import Vocabulary
from suite.errors import InvalidGrammar, InvalidRequest
from suite.messages.actions.generation import GenerateTextRequest
from suite.messages.logprobs import TokenLogprobs

if TYPE_CHECKING:
    from suite.engine.candidates import Ids, Logits
    from suite.engine.grammar.session import GrammarSession

_GREEDY_BELOW = 1e-4
"""A temperature under this takes the likeliest token: dividing by it would overflow."""
_TRIED_FIRST = (256, 4096)


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of one generation; their meaning is that of the request's fields of these names."""

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = 64
    """How far back penalties look, into the prompt too."""
    seed: int = 0
    logit_bias: Mapping[int, float] = {}
    grammar: GrammarSession | None = None
    """What the answer follows; it was read, and whoever opened it closes it."""
    logprobs: int | None = None
    """How many of the likeliest tokens to tell beside each; None: nothing."""


def sampling_of(
    request: GenerateTextRequest, *, seed: int, vocabulary: Vocabulary, grammar: GrammarSession | None = None
) -> Sampling:
    """The parameters of a request. Raises InvalidRequest for a bias of tokens that the model has not."""
    return Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        typical_p=request.typical_p,
        repeat_penalty=request.repeat_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        seed=seed,
        logit_bias=_bias(request.logit_bias, vocabulary.size),
        grammar=grammar,
        logprobs=request.logprobs,
    )


def _bias(given: Mapping[str, float], size: int) -> dict[int, float]:
    bias, unknown = {}, []
    for name, value in given.items():
        if name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < size:
            bias[int(name)] = value
        else:
            unknown.append(name[:20])
    if unknown:
        named = ", ".join(repr(name) for name in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise InvalidRequest(f"logit_bias: the model has no token {named}; its token ids are 0 to {size - 1}")
    return bias


class Sampler:
    """Chooses the tokens of one generation. It belongs to the thread that decodes; its context frees it."""

    def __init__(self, sampling: Sampling, vocabulary: Vocabulary) -> None:
        from suite.engine import candidates  # with numpy, which a start need not wait for

        self.last_logprobs: TokenLogprobs | None = None
        """Of the token that was taken last, if they are asked for."""
        self._candidates = candidates
        self._sampling = sampling
        self._vocabulary = vocabulary
        self._greedy = sampling.temperature < _GREEDY_BELOW
        self._penalizes = sampling.penalty_last_n > 0 and (
            sampling.repeat_penalty != 1 or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        )
        self._adjustment = (
            candidates.Adjustment(
                dict(sampling.logit_bias),
                repeat=sampling.repeat_penalty,
                presence=sampling.presence_penalty,
                frequency=sampling.frequency_penalty,
            )
            if self._penalizes or sampling.logit_bias
            else None
        )
        self._recent: deque[int] = deque()
        self._counts: dict[int, int] = {}
        self._chosen_from = candidates.Candidates()
        self._chain = None if self._greedy else _chain(sampling, vocabulary.size)

    def remember(self, prompt: Sequence[int]) -> None:
        """Let the penalties count the end of the prompt as well."""
        if self._penalizes:
            for token in prompt[-self._sampling.penalty_last_n :]:
                self._count(token)

    def next(self, context: int, row: int = -1) -> int:
        """The next token, from the logits of one entry of the last batch; -1: of its last entry.

        Raises InvalidGrammar when the grammar leaves no token or takes too long, GenerationFailed when there
        are no logits.
        """
        raw = self._candidates.logits_of(context, row, self._vocabulary.size)
        logits = raw if self._adjustment is None else self._adjustment.of(raw, self._counts)
        grammar = self._sampling.grammar
        token = self._draw(logits) if grammar is None else self._draw_within(grammar, logits)
        if self._penalizes:
            self._count(token)
        if self._sampling.logprobs is not None:
            self.last_logprobs = self._candidates.logprobs_of(
                raw, token, self._sampling.logprobs, self._vocabulary
            )
        return token

    def _draw(self, logits: Logits, among: Ids | None = None) -> int:
        """A token among these, or among all."""
        if self._chain is None:
            return int(logits.argmax() if among is None else among[logits[among].argmax()])
        if among is None:
            # 0 means no limit: then all of them can matter.
            among = self._candidates.likeliest(logits, self._sampling.top_k or len(logits))
        self._chosen_from.fill(among, logits[among])
        self._chosen_from.apply(self._chain)
        return self._chosen_from.chosen

    def _draw_within(self, grammar: GrammarSession, logits: Logits) -> int:
        token = self._draw(logits)
        if not grammar.takes(token):
            token = self._draw(logits, self._permitted(grammar, logits))
            grammar.accept(token)
        return token

    def _permitted(self, grammar: GrammarSession, logits: Logits) -> Ids:
        """What the grammar permits of the likeliest tokens, as many as are needed for the draw."""
        sampling = self._sampling
        for count in (*_TRIED_FIRST, len(logits)):
            tried = self._candidates.likeliest(logits, count)
            permitted = grammar.permitted(tried)
            if not len(permitted):
                continue
            if self._greedy or 0 < sampling.top_k <= len(permitted) or len(tried) == len(logits):
                return permitted
            if self._candidates.suffice(
                tried, permitted, logits, min_p=sampling.min_p, temperature=sampling.temperature
            ):
                return permitted
        raise InvalidGrammar("the grammar permits none of the model's tokens where the answer has come to")

    def _count(self, token: int) -> None:
        """Remember a token for the penalties, and forget the one that is too far back by now."""
        self._recent.append(token)
        self._counts[token] = self._counts.get(token, 0) + 1
        if len(self._recent) > self._sampling.penalty_last_n:
            gone = self._recent.popleft()
            self._counts[gone] -= 1
            if not self._counts[gone]:
                del self._counts[gone]

    def __enter__(self) -> Sampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back what llama.cpp holds for it."""
        if self._chain is not None:
            lib.llama_sampler_free(self._chain)
        self._chain = None


def _chain(sampling: Sampling, vocabulary_size: int) -> int:
    chain: int = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    if sampling.top_k > 0:
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_k(min(sampling.top_k, vocabulary_size)))
    if sampling.typical_p < 1:
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_typical(sampling.typical_p, 1))
    if sampling.top_p < 1:
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_min_p(sampling.min_p, 1))
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_temp(sampling.temperature))
    # llama.cpp takes its largest seed for a wish for a random one.
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(sampling.seed % lib.LLAMA_DEFAULT_SEED))
    return chain
