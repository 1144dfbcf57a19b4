"""What all streams of OpenAI's API have in common."""

from __future__ import annotations

from typing import Final

from suite.errors import SuiteError
from suite.gateway.encoding import encode
from suite.gateway.errors import openai_error
from suite.gateway.sse import EVENT_STREAM, comment, event

DONE: Final = event(b"[DONE]")
"""The last event of an answer that is complete."""


class OpenAIForm:
    """How a stream says what is no part of the answer."""

    media_type = EVENT_STREAM

    def error(self, error: SuiteError) -> bytes:
        """An event with the error; no `DONE` follows it."""
        return event(encode(openai_error(error)))

    def keep_alive(self, told: str) -> bytes:
        """A comment."""
        return comment(told)
