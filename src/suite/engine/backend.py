"""What the engine needs of llama.cpp; a test gives it something that answers at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from suite.engine.sampler import Sampling
from suite.engine.snapshots.file import Payload
from suite.messages.logprobs import TokenLogprobs


class Part(NamedTuple):
    """Tokens of one sequence in a batch of several."""

    sequence: int
    tokens: Sequence[int]
    position: int
    """Of the first of them in its sequence."""
    wants_logits: bool
    """Whether the last of them is sampled from."""


class Words(Protocol):
    """What tokens mean."""

    def ends(self, token: int) -> bool:
        """Whether the model says with this token that it has finished."""

    def shown(self, token: int) -> bytes:
        """The bytes that a generated token adds to the answer."""


class TokenSource(Protocol):
    """Chooses the tokens of one generation."""

    @property
    def logprobs(self) -> TokenLogprobs | None:
        """How likely the last token was; None if nobody asked."""

    def remember(self, prompt: Sequence[int]) -> None:
        """Let penalties count the end of the prompt as well."""

    def next(self, row: int) -> int:
        """The next token, from the logits of this row of the last batch."""

    def close(self) -> None:
        """Give back what it holds."""


class Backend(Protocol):
    """One model in memory and its cache of sequences. Everything blocks; one thread uses it."""

    @property
    def words(self) -> Words:
        """Its vocabulary."""

    @property
    def can_share(self) -> bool:
        """Whether part of a sequence can be forgotten or given to another."""

    @property
    def context_tokens(self) -> int:
        """How long one sequence may get."""

    @property
    def cache_tokens(self) -> int:
        """What all sequences have room for together."""

    @property
    def batch_tokens(self) -> int:
        """How many tokens are decoded at once at most."""

    def decode(self, parts: Sequence[Part]) -> bool:
        """Decode a batch. False: the cache has no room for it, and nothing has changed.

        Raises GenerationFailed, after which what these sequences hold is unknown.
        """

    def source(self, sampling: Sampling) -> TokenSource:
        """What chooses the tokens of a generation."""

    def cut(self, sequence: int, position: int) -> bool:
        """Forget a sequence from a position on. False: this model cannot forget a part, and has not."""

    def length(self, sequence: int) -> int:
        """How many tokens a sequence has in memory."""

    def share(self, source: int, target: int, tokens: int) -> None:
        """Let the empty sequence `target` begin with the first tokens of `source`; empty if it cannot."""

    def shortest(self, sequence: int) -> int:
        """To how few tokens a sequence can be cut back and be right; it can be emptied anyway."""

    def save(self, sequence: int) -> Payload:
        """The state of a sequence, for `restore`."""

    def shortest_saved(self, sequence: int) -> int:
        """To how few tokens its saved state can be cut back."""

    def restore(self, sequence: int, payload: Payload) -> bool:
        """Fill an empty sequence with a saved state. False: it does not fit, and the sequence is empty."""
