"""One generation: what was requested, its progress, and whether it must end."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from suite.engine.adapters import NO_ADAPTERS, AdapterSet
from suite.engine.pictures.tokens import Piece
from suite.engine.reasoning import Reasoning
from suite.engine.sampler import SamplingParams
from suite.identity import Clock
from suite.messages.events import Outcome
from suite.messages.logprobs import PromptToken


class EngineRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to the engine to generate text, with the prompt as tokens."""

    prompt: list[int]
    pictures: Mapping[int, Piece] = {}
    """The pieces of pictures in the prompt, by the first of the tokens that stand for each."""
    max_tokens: int
    stop: tuple[str, ...]
    sampling: SamplingParams
    conversation_id: str | None
    priority: int = 0
    """Higher priorities leave the queue first."""
    deadline: float | None = None
    """When it must end, in seconds of the generation's clock; None: no limit."""
    continues: bool = False
    """Whether the prompt is only the new turn, to follow all tokens that the conversation has."""
    reuse: bool = True
    """Whether tokens that are in memory need not be decoded again."""
    prompt_logprobs: int | None = None
    """How many alternatives to report for each token of the prompt; None: no log probabilities at all.

    It needs the logits of the whole prompt, so nothing of it may be reused.
    """
    reasoning: Reasoning | None = None
    """How reasoning is told apart from the answer; None: all is the answer."""
    is_forgotten: bool = False
    """Whether nothing of it is kept when it ends, nor reused by others before."""
    adapters: AdapterSet = NO_ADAPTERS
    """What the model is computed with."""
    speculates: bool = True
    """Whether its next tokens may be guessed, which changes the shape of batches."""


class Generation:
    """A request in progress. Any thread may read its counts and times while it runs."""

    def __init__(self, request: EngineRequest, clock: Clock) -> None:
        self.request = request
        self.prompt_tokens = len(request.prompt)
        self.outcome: Outcome | None = None
        self.stop_text: str | None = None
        """The stop string that ended it; None: none did."""
        self.reused_tokens = 0
        """Prompt tokens that were reused from the KV cache."""
        self.completion_tokens = 0
        """Tokens sampled, not counting the one that ends the answer."""
        self.reasoning_tokens = 0
        """How many of these are reasoning."""
        self.drafted_tokens = 0
        """Guesses of its tokens that were decoded."""
        self.accepted_tokens = 0
        """How many of these were right."""
        self.started_at: float | None = None
        self.first_token_at: float | None = None
        self.ended_at: float | None = None
        self.prompt_logprobs: list[PromptToken] = []
        """Those of the tokens decoded so far, if they are wanted."""
        self.unsaved_tokens = 0
        """When it ended, how many tokens in slots would have been lost with the process."""
        self._clock = clock
        self._cancelled: Outcome | None = None

    def cancel(self, outcome: Outcome) -> None:
        """Have the engine end it before its next step. If called twice, the first outcome counts."""
        self._cancelled = self._cancelled or outcome

    @property
    def interruption(self) -> Outcome | None:
        """Why it must end before the model finishes (cancelled, or past its deadline); None: it may go on."""
        if self._cancelled is None and self.request.deadline is not None:
            return "deadline" if self._clock() >= self.request.deadline else None
        return self._cancelled

    # --- the engine's thread --------------------------------------------------------------------------------

    def start(self, *, prompt_tokens: int, reused_tokens: int) -> None:
        """Record that it got a slot, and that decoding of its prompt begins."""
        self.started_at = self._clock()
        self.prompt_tokens = prompt_tokens
        self.reused_tokens = reused_tokens

    def token_sampled(self) -> None:
        """Record that a token was sampled, even one that only ends the answer."""
        if self.first_token_at is None:
            self.first_token_at = self._clock()

    def end(self, outcome: Outcome, *, unsaved_tokens: int = 0) -> None:
        """Record that it has ended, and how."""
        self.outcome = outcome
        self.unsaved_tokens = unsaved_tokens
        self.ended_at = self._clock()
