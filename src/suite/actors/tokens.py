"""Answers what takes a model's vocabulary and its chat template, and no computing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import anyio.to_thread

from suite.engine.prompts.prompt import Prompter
from suite.engine.vocabulary import Vocabulary
from suite.messages.actor import ApplyTemplate, Detokenize, Detokenized, TemplateApplied, Tokenize, Tokenized


class Tokens:
    """The requests for tokens and prompts of one actor. They run in threads, beside what is generated."""

    def __init__(self, prompter: Prompter) -> None:
        self._prompter = prompter

    async def tokenize(self, request: Tokenize) -> Tokenized:
        """The tokens of a text. Raises GenerationFailed when llama.cpp's tokenizer fails."""
        return await anyio.to_thread.run_sync(_tokenized, self._prompter.vocabulary, request)

    async def detokenize(self, request: Detokenize) -> Detokenized:
        """The text of tokens. Raises InvalidRequest for an id that is no token of the model."""
        text = await anyio.to_thread.run_sync(self._prompter.vocabulary.detokenize, request.tokens)
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
