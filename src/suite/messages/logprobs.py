"""Log probabilities of tokens, as in OpenAI's API: natural logarithms, before sampling parameters apply."""

from __future__ import annotations

import msgspec


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One token and the natural logarithm of its probability; -9999 stands for a probability of 0."""

    id: int
    token: str
    """Its text; an incomplete character is shown as U+FFFD."""
    bytes: tuple[int, ...]
    """Its UTF-8 bytes; several tokens together may make one character."""
    logprob: float


class TokenLogprobs(TokenLogprob, frozen=True, kw_only=True):
    """A token of the answer, and the likeliest tokens in its place."""

    top_logprobs: tuple[TokenLogprob, ...]
    """The likeliest tokens first; the token itself may be among them."""


class PromptToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token of the prompt, and the likeliest tokens in its place."""

    id: int
    token: str
    """Its text; an incomplete character is shown as U+FFFD."""
    bytes: tuple[int, ...]
    logprob: float | None
    """Null for the first token, which follows nothing; -9999 stands for a probability of 0."""
    top_logprobs: tuple[TokenLogprob, ...]
    """The likeliest tokens first; none for the first token."""
