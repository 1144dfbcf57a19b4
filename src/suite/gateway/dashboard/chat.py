"""A chat with a model, as the page has it: the native answer, with what is known of its cost."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw

from suite.errors import SuiteError
from suite.gateway.dashboard.told import Trouble
from suite.gateway.encoding import encode
from suite.gateway.sse import EVENT_STREAM, comment, named_event
from suite.messages.actions.generation import GenerateTextReply
from suite.messages.signals import Chunk

MOST_TOKENS: Final = 100_000


class TryRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A chat so far."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Raw
    """As `generate_text` has them."""
    max_tokens: Annotated[int, Meta(ge=1, le=MOST_TOKENS)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=10)] | None = None

    def fields(self, generation_id: str) -> dict[str, Any]:
        """The request as the service takes it."""
        given = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        return {
            "model_id": self.model,
            "messages": self.messages,
            "generation_id": generation_id,
            **{name: value for name, value in given.items() if value is not None},
        }


read_try: Final = msgspec.json.Decoder(TryRequest).decode


class TryAnswer:
    """The pieces of the answer."""

    media_type = EVENT_STREAM

    def chunk(self, chunk: Chunk) -> bytes:
        """The next text."""
        return named_event("chunk", encode(chunk))

    def end(self, reply: GenerateTextReply) -> bytes:
        """The whole answer, with its usage and timings."""
        return named_event("end", encode(reply))

    def error(self, error: SuiteError) -> bytes:
        """Why it ends early."""
        return named_event("error", encode(Trouble.of(error)))

    def keep_alive(self, told: str) -> bytes:
        """A sign of life."""
        return comment(told or "working")
