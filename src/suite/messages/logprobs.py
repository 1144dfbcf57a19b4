"""How likely the model thought a token, as OpenAI's API has it: natural logarithms, before any sampling."""

from __future__ import annotations

import msgspec


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One token and the logarithm of its probability; -9999 stands for none at all."""

    id: int
    token: str
    """Its text; a part of a character shows as U+FFFD."""
    bytes: tuple[int, ...]
    """Its UTF-8, of which several tokens may make one character."""
    logprob: float


class TokenLogprobs(TokenLogprob, frozen=True, kw_only=True):
    """A token of the answer, and what the model thought likeliest in its place."""

    top_logprobs: tuple[TokenLogprob, ...]
    """The likeliest first; the token itself may be among them."""
