"""Samples the next token of one generation.

Logit bias and penalties are applied first. Then the likeliest tokens are picked and pass through llama.cpp's
own sampler chain: top-k, typical, top-p, min-p, temperature, and a draw with the seed. The order is that of
llama.cpp's common sampler.

With a grammar, as in llama.cpp, a token is drawn without it first, because the grammar permits most tokens
that a model prefers. Only if the grammar rejects that token, one is drawn among those that it permits.
Checking a whole vocabulary of 262,144 tokens takes 60 to 140 ms, so the likeliest are checked first, and all
only when these are not enough. The grammar runs in another process (`suite.engine.grammar.session`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from suite.engine.bindings import lib
from suite.engine.pictures.tokens import is_stand_in
from suite.engine.vocabulary import Vocabulary
from suite.errors import InvalidRequest, InvalidSchema
from suite.messages.actions.generation import GenerateTextRequest
from suite.messages.logprobs import TokenLogprobs

if TYPE_CHECKING:
    from suite.engine.candidates import Logits, TokenIds
    from suite.engine.grammar.session import GrammarSession

_GREEDY_BELOW = 1e-4
"""Below this temperature the likeliest token is taken, since dividing logits by it would overflow."""
_TRIED_FIRST = (256, 4096)


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """The sampling parameters of one generation, named as in the request, which documents them."""

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = 64
    """How many of the last tokens the penalties count, those of the prompt included."""
    seed: int = 0
    logit_bias: Mapping[int, float] = {}
    grammar: GrammarSession | None = None
    """The compiled grammar of the answer; its opener closes it."""
    is_grammar_optional: bool = False
    """Whether the answer goes on freely where the grammar cannot be followed."""
    logprobs: int | None = None
    """How many alternatives to report for each token; None: no log probabilities at all."""


def sampling_params(
    request: GenerateTextRequest,
    *,
    seed: int,
    vocabulary: Vocabulary,
    grammar: GrammarSession | None = None,
    is_grammar_optional: bool = False,
) -> SamplingParams:
    """The sampling parameters of a request. Raises InvalidRequest for a logit bias of unknown tokens."""
    return SamplingParams(
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
        is_grammar_optional=is_grammar_optional,
        logprobs=request.alternatives,
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
    """Samples the tokens of one generation. Only the engine's thread may use it; close it, or use `with`."""

    def __init__(self, sampling: SamplingParams, vocabulary: Vocabulary) -> None:
        from suite.engine import candidates  # with numpy, which a start need not wait for

        self.last_logprobs: TokenLogprobs | None = None
        """Log probabilities of the last sampled token; None if they were not requested."""
        self._candidates = candidates
        self._sampling = sampling
        self._vocabulary = vocabulary
        self._greedy = sampling.temperature < _GREEDY_BELOW
        self._penalizes = sampling.penalty_last_n > 0 and (
            sampling.repeat_penalty != 1 or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        )
        self._logits_processor = (
            candidates.LogitsProcessor(
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
        self._grammar = sampling.grammar
        self._chain = None if self._greedy else _chain(sampling, vocabulary.size)

    def accept_prompt(self, prompt: Sequence[int]) -> None:
        """Count the prompt's last tokens for the repetition penalties."""
        if self._penalizes:
            for token in prompt[-self._sampling.penalty_last_n :]:
                if not is_stand_in(token):
                    self._count(token)

    def sample(self, context: int, row: int = -1, exempt: Collection[int] | None = ()) -> int:
        """Sample the next token from the logits of one row of the last batch; -1 is its last row.

        The grammar does not see a token that is `exempt` from it, as reasoning is; None: any token is. Raises
        InvalidGrammar or InvalidSchema when the grammar permits no token or takes too long, and
        GenerationFailed when llama.cpp has no logits for the row.
        """
        raw = self._candidates.logits_of(context, row, self._vocabulary.size)
        logits = raw if self._logits_processor is None else self._logits_processor.apply(raw, self._counts)
        grammar = None if exempt is None else self._grammar
        token = self._draw(logits) if grammar is None else self._draw_within(grammar, logits, exempt or ())
        if self._penalizes:
            self._count(token)
        if self._sampling.logprobs is not None:
            self.last_logprobs = self._candidates.logprobs_of(
                raw, token, self._sampling.logprobs, self._vocabulary
            )
        return token

    def _draw(self, logits: Logits, among: TokenIds | None = None) -> int:
        """Draw one of these tokens; None: any token."""
        if self._chain is None:
            return int(logits.argmax() if among is None else among[logits[among].argmax()])
        if among is None:
            # 0 means no limit: then all of them can matter.
            among = self._candidates.likeliest(logits, self._sampling.top_k or len(logits))
        self._chosen_from.fill(among, logits[among])
        self._chosen_from.apply(self._chain)
        return self._chosen_from.selected

    def _draw_within(self, grammar: GrammarSession, logits: Logits, exempt: Collection[int]) -> int:
        token = self._draw(logits)
        if token in exempt:
            return token
        try:
            return self._accepted(grammar, logits, token)
        except InvalidSchema:
            if not self._sampling.is_grammar_optional:
                raise
            self._grammar = None
            return token

    def _accepted(self, grammar: GrammarSession, logits: Logits, token: int) -> int:
        """This token if the grammar permits it, else one that it does permit."""
        if not grammar.try_accept(token):
            token = self._draw(logits, self._permitted(grammar, logits))
            grammar.accept(token)
        return token

    def _permitted(self, grammar: GrammarSession, logits: Logits) -> TokenIds:
        """The likeliest tokens that the grammar permits, as many as the draw can depend on."""
        sampling = self._sampling
        for count in (*_TRIED_FIRST, len(logits)):
            tried = self._candidates.likeliest(logits, count)
            permitted = grammar.permitted(tried)
            if not len(permitted):
                continue
            if self._greedy or 0 < sampling.top_k <= len(permitted) or len(tried) == len(logits):
                return permitted
            if self._candidates.rest_is_negligible(
                tried, permitted, logits, min_p=sampling.min_p, temperature=sampling.temperature
            ):
                return permitted
        raise grammar.refused("permits none of the model's tokens at this point of the answer")

    def _count(self, token: int) -> None:
        """Count a token for the penalties, and uncount the one that is now too far back."""
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
        """Free the sampler chain in llama.cpp."""
        if self._chain is not None:
            lib.llama_sampler_free(self._chain)
        self._chain = None


def _chain(sampling: SamplingParams, vocabulary_size: int) -> int:
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
