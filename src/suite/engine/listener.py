"""The callbacks of one generation."""

from __future__ import annotations

from typing import Protocol

from suite.errors import SuiteError
from suite.messages.logprobs import TokenLogprobs


class Listener(Protocol):
    """Receives the text of one generation. It is called in the engine's thread and must not block."""

    def on_text(self, text: str, logprobs: TokenLogprobs | None = None, *, reasoning: str = "") -> None:
        """Called with the next piece of text, and its token's log probabilities if they were requested.

        `reasoning` is the next piece of what the model thinks before its answer. Both may be empty, while a
        character, a possible marker or a possible stop string is incomplete.
        """

    def on_end(self, error: SuiteError | None) -> None:
        """Called once, after all text, when the generation ends; `error` is set if it failed."""
