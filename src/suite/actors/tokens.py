"""Answers what takes a model's vocabulary and its chat template, and no computing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import anyio
import anyio.to_thread

from suite.engine.prompts.prompt import Prompter
from suite.engine.vocabulary import Vocabulary
from suite.messages.actor import ApplyTemplate, Detokenize, Detokenized, TemplateApplied, Tokenize, Tokenized

MAX_CONCURRENT = 2
"""The most texts that are tokenized or detokenized at the same time, since each takes a core."""


class Tokens:
    """The requests for tokens and prompts of one actor. They run in threads, beside what is generated."""

    def __init__(self, prompter: Prompter) -> None:
        self._prompter = prompter
        self._limiter = anyio.CapacityLimiter(MAX_CONCURRENT)

    async def tokenize(self, request: Tokenize) -> Tokenized:
        """The tokens of a text. Raises GenerationFailed when llama.cpp's tokenizer fails."""
        vocabulary = self._prompter.vocabulary
        return await anyio.to_thread.run_sync(_tokenized, vocabulary, request, limiter=self._limiter)

    async def detokenize(self, request: Detokenize) -> Detokenized:
        """The text of tokens. Raises InvalidRequest for an id that is no token of the model."""
        vocabulary = self._prompter.vocabulary
        text = await anyio.to_thread.run_sync(vocabulary.detokenize, request.tokens, limiter=self._limiter)
        return Detokenized(text=text)

    async def apply_template(self, request: ApplyTemplate) -> TemplateApplied:
        """The text of a chat, and of how many tokens it is, also if these are too many for the context.

        Raises EmptyPrompt, NoChatTemplate, InvalidChat, InvalidConfiguration or Overloaded.
        """
        prompt = await asyncio.wrap_future(self._prompter.submit_written(request.request))
        return TemplateApplied(text=prompt.text, tokens=prompt.tokens, warnings=prompt.warnings)


def _tokenized(vocabulary: Vocabulary, request: Tokenize) -> Tokenized:
    tokens = vocabulary.tokenize(request.text, begins=request.add_special, special=request.parse_special)
    pieces = _pieces(vocabulary, tokens) if request.pieces else None
    return Tokenized(tokens=tuple(tokens), pieces=pieces)


def _pieces(vocabulary: Vocabulary, tokens: Sequence[int]) -> tuple[str, ...]:
    return tuple(vocabulary.piece(token, special=True).decode("utf-8", "replace") for token in tokens)
