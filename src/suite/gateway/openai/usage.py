"""The tokens of a request, and why an answer ended, in the words of OpenAI's API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from suite.messages.actions.generation import Usage as Tokens
from suite.messages.events import Outcome


class PromptDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Of the prompt's tokens: those that were in memory, and were not decoded again."""

    cached_tokens: int


class CompletionDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Of the answer's tokens."""

    reasoning_tokens: int
    """Those before it, between think markers."""
    accepted_prediction_tokens: int = 0
    """Those that were guessed rightly, by the service itself."""
    rejected_prediction_tokens: int = 0
    """Guesses that were wrong, which are in no answer."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class InputUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of a request that nothing is generated for."""

    prompt_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, tokens: int) -> InputUsage:
        """The usage of a request with so many tokens."""
        return cls(prompt_tokens=tokens, total_tokens=tokens)


def usage_of(generations: Iterable[Tokens]) -> Usage:
    """The usage of a request that took these generations."""
    prompt = cached = completion = reasoning = drafted = accepted = 0
    for each in generations:
        prompt += each.prompt_tokens
        cached += each.reused_tokens
        completion += each.completion_tokens
        reasoning += each.reasoning_tokens
        drafted += each.drafted_tokens
        accepted += each.accepted_tokens
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptDetails(cached_tokens=cached),
        completion_tokens_details=CompletionDetails(
            reasoning_tokens=reasoning,
            accepted_prediction_tokens=accepted,
            rejected_prediction_tokens=drafted - accepted,
        ),
    )


def finish_reason(outcome: Outcome) -> Literal["stop", "length"]:
    """Why a text ended, in the two words that OpenAI's API has for it."""
    return "stop" if outcome == "stop" else "length"
