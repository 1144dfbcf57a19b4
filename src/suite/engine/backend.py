"""The interface between the engine and llama.cpp. Tests pass a fake that answers at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, TypeAlias

from suite.engine.adapters import AdapterSet
from suite.engine.pictures.tokens import Piece
from suite.engine.sampler import SamplingParams
from suite.engine.snapshots.file import Payload
from suite.messages.logprobs import PromptToken, TokenLogprobs


class BatchEntry(NamedTuple):
    """The tokens of one sequence in a batch, which may have entries of several sequences."""

    sequence: int
    tokens: Sequence[int]
    position: int
    """Position of the first token within its sequence, from 0."""
    wants_logits: bool
    """Whether the next token is sampled after the last of these tokens."""
    is_scored: bool = False
    """Whether the logits after each of these tokens are wanted."""


class Tokenizer(Protocol):
    """Turns token ids into the bytes of the answer, and back."""

    def tokenize(self, text: str, *, begins: bool) -> list[int]:
        """The tokens of a text; with `begins`, after those that the model expects at its start."""

    def is_eog(self, token: int) -> bool:
        """Whether this token ends the generation (end of generation, EOG)."""

    def visible_bytes(self, token: int) -> bytes:
        """The bytes that a generated token adds to the answer; none for special tokens."""


class TokenSampler(Protocol):
    """Chooses the tokens of one generation."""

    @property
    def logprobs(self) -> TokenLogprobs | None:
        """Log probabilities of the last sampled token; None if the request did not ask for them."""

    def accept_prompt(self, prompt: Sequence[int]) -> None:
        """Count the prompt's last tokens for the repetition penalties."""

    def sample(self, row: int, exempt: Collection[int] | None = ()) -> int:
        """Sample the next token from the logits of this row of the last batch.

        The grammar of the answer does not see a token that is `exempt` from it; None: any token is.
        """

    def close(self) -> None:
        """Free the sampler's memory in llama.cpp."""


class Cores(Protocol):
    """This process's part of the machine's cores, which it shares with other models."""

    def due(self, *, reading: bool, priority: int) -> int:
        """How many threads the next step may use. From now on this process counts as busy.

        `reading`: whether the step is a prompt's; `priority`: the highest of those that run.
        """

    def rest(self) -> None:
        """Leave all cores to others until the next step."""

    def leave_one(self) -> AbstractContextManager[None]:
        """Leave a core to another process that works for this model, until the block ends. For any thread."""


LeaveCore: TypeAlias = Callable[[], AbstractContextManager[None]]
"""`Cores.leave_one`; without shared cores, `nullcontext`."""


class Backend(Protocol):
    """One loaded model and its KV cache. Every method blocks, and only one thread may call them."""

    @property
    def vocabulary(self) -> Tokenizer:
        """The model's vocabulary."""

    @property
    def can_share(self) -> bool:
        """Whether a sequence can be truncated, and its prefix copied to another (not in recurrent models)."""

    @property
    def in_background(self) -> bool:
        """Whether what `decode` began may go on after it, until logits are read (on a GPU)."""

    @property
    def context_tokens(self) -> int:
        """The most tokens that one sequence can have."""

    @property
    def separate(self) -> bool:
        """Whether each sequence has room of its own in the KV cache, for `context_tokens`.

        Then a batch of sequences that follow each other without a gap is decoded at once, any other in parts.
        """

    @property
    def cache_tokens(self) -> int:
        """The most tokens that all sequences together can have in the KV cache, if that is not separate."""

    @property
    def batch_tokens(self) -> int:
        """The most tokens in one batch."""

    @property
    def scored_tokens(self) -> int:
        """The most tokens in one batch for which the logits after each are wanted: these take memory."""

    def use_threads(self, threads: int) -> None:
        """Compute with this many threads from now on."""

    def use_adapters(self, adapters: AdapterSet) -> None:
        """Compute with these adapters from now on. Raises GenerationFailed if one cannot be loaded."""

    def decode(self, entries: Sequence[BatchEntry]) -> bool:
        """Decode a batch. Returns False, and changes nothing, when the cache has no room for it.

        Raises GenerationFailed; the contents of these sequences are unknown afterwards.
        """

    def decode_picture(
        self, sequence: int, position: int, piece: Piece, *, left: int | None, most: int
    ) -> int | None:
        """Go on to decode a piece of a picture, whose first position this is, by at most so many cells.

        `left` is how many it had left the last time; None: it begins. Returns how many are left now, at once
        0 for a model that has to see it as a whole; or None when the cache has no room for it, and then
        nothing of it is left there. Raises GenerationFailed; the contents of this sequence are unknown
        afterwards.
        """

    def score(self, token: int, row: int | None, alternatives: int) -> PromptToken:
        """The log probability of a token by the logits of this row of the last batch, and the likeliest ones.

        None: the token is the first of its prompt and has none. Raises GenerationFailed.
        """

    def sampler(self, sampling: SamplingParams) -> TokenSampler:
        """A new sampler for one generation."""

    def truncate(self, sequence: int, position: int) -> bool:
        """Remove the tokens of a sequence from a position on.

        Returns False, and removes nothing, when the model cannot remove only a part.
        """

    def length(self, sequence: int) -> int:
        """The number of tokens that a sequence has in the KV cache."""

    def copy_prefix(self, source: int, target: int, tokens: int) -> None:
        """Copy the first tokens of `source` into the empty sequence `target`.

        `target` stays empty when the model cannot copy just these. Raises MemoryError and
        GenerationFailed, after which it is empty too.
        """

    def exchange(self, first: int, second: int) -> None:
        """Let two sequences of a separate cache change places; one of them may be empty.

        Raises MemoryError, which changes nothing, and GenerationFailed, when one was taken from its place and
        could not be put into the other: the contents of both are lost, and their generations cannot go on.
        """

    def exchange_steps(self, first: int, second: int) -> float:
        """What `exchange` costs, as a number of steps in which a batch is decoded in one part more.

        Infinite if they cannot change places.
        """

    def min_prefix(self, sequence: int) -> int:
        """The fewest tokens to which a sequence can be truncated and stay correct; 0 always works."""

    def save(self, sequence: int) -> Payload:
        """The state of a sequence as bytes, for `restore`; empty when it cannot be saved.

        Raises MemoryError and GenerationFailed, which change nothing.
        """

    def min_saved_prefix(self, sequence: int) -> int:
        """The fewest tokens to which the saved state of a sequence can be truncated after `restore`."""

    def restore(self, sequence: int, payload: Payload) -> bool:
        """Load a saved state into an empty sequence. False: it does not fit, and the sequence stays empty."""
