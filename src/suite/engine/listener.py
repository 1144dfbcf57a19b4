"""Who is told of one generation."""

from __future__ import annotations

from typing import Protocol

from suite.errors import SuiteError
from suite.messages.logprobs import TokenLogprobs


class Listener(Protocol):
    """Is told in the engine's thread; it must not block."""

    def piece(self, text: str, logprobs: TokenLogprobs | None = None) -> None:
        """The next piece of text, and how likely its token was, if that was asked for.

        The text may be empty: a character or a stop string may still be on its way.
        """

    def ended(self, error: SuiteError | None) -> None:
        """It is over, once and after every piece; `error` says why it failed if it did."""
