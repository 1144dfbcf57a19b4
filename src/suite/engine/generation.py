"""One generation: what was ordered, what came of it so far, and whether it is to end."""

from __future__ import annotations

import msgspec

from suite.engine.sampler import Sampling
from suite.identity import Clock
from suite.messages.events import Outcome


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be generated."""

    prompt: list[int]
    max_tokens: int
    stop: tuple[str, ...]
    sampling: Sampling
    conversation_id: str | None
    priority: int = 0
    """Higher goes first where there is a queue."""
    deadline: float | None = None
    """Of the clock that the generation has; None: it may take as long as it takes."""
    continues: bool = False
    """The prompt goes on after all that the conversation holds, which is not sent again."""


class Generation:
    """One order on its way. Its figures may be read from any thread while it runs."""

    def __init__(self, order: Order, clock: Clock) -> None:
        self.order = order
        self.prompt_tokens = len(order.prompt)
        self.outcome: Outcome | None = None
        self.reused_tokens = 0
        """Of the prompt, those that were not decoded again."""
        self.completion_tokens = 0
        """Sampled, without the one that ends the answer."""
        self.started: float | None = None
        self.first_token: float | None = None
        self.ended: float | None = None
        self._clock = clock
        self._cancelled: Outcome | None = None

    def cancel(self, outcome: Outcome) -> None:
        """End it before its next step; the first outcome that is given stands."""
        self._cancelled = self._cancelled or outcome

    @property
    def overdue(self) -> Outcome | None:
        """Why it is to end now, whatever the model would still say."""
        if self._cancelled is None and self.order.deadline is not None:
            return "deadline" if self._clock() >= self.order.deadline else None
        return self._cancelled

    # --- the engine's thread --------------------------------------------------------------------------------

    def start(self, *, prompt_tokens: int, reused_tokens: int) -> None:
        """It has a place, and its prompt begins to be decoded."""
        self.started = self._clock()
        self.prompt_tokens = prompt_tokens
        self.reused_tokens = reused_tokens

    def take(self) -> None:
        """A token was sampled, whatever it says."""
        if self.first_token is None:
            self.first_token = self._clock()

    def end(self, outcome: Outcome) -> None:
        """It is over."""
        self.outcome = outcome
        self.ended = self._clock()
