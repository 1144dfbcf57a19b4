"""The parameters that chats and completions have in common.

Those that OpenAI's API does not have are as in the service's ``generate_text``. Objects go to the service as
they came, and are checked there.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from suite.gateway.encoding import Integer
from suite.gateway.generations import Fields
from suite.messages.actions.base import Adapters, LoadWait

Stop = Annotated[
    Raw,
    Meta(extra_json_schema={"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
JsonObject = Annotated[Raw, Meta(extra_json_schema={"type": ["object", "null"]})]
KeepAlive = Annotated[
    Raw,
    Meta(extra_json_schema={"anyOf": [{"type": "number"}, {"enum": ["forever", "now", None]}]}),
]


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream has beside the text."""

    include_usage: bool | None = None
    """True: a last chunk without choices has the usage."""


class Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """A request for text. Unknown parameters are ignored, and null counts as left out."""

    own: ClassVar[frozenset[str]] = frozenset(
        ("model", "stream", "stream_options", "user", "prompt_cache_key")
    )
    """The parameters that do not go to the service under their names."""

    model: Annotated[str, Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Integer | None = None
    n: Annotated[int, Meta(ge=1, le=16)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: JsonObject | UnsetType = UNSET
    seed: Integer | None = None
    stop: Stop | UnsetType = UNSET
    user: str | None = None
    """This and ``prompt_cache_key`` tell conversations apart that begin alike."""
    prompt_cache_key: str | None = None
    top_k: Integer | None = None
    """This and what follows is not in OpenAI's API; it is as in the service's ``generate_text``."""
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    grammar: str | None = None
    json_schema: JsonObject | UnsetType = UNSET
    truncate: str | None = None
    priority: Integer | None = None
    deadline_ms: Integer | None = None
    load_wait_ms: LoadWait = None
    keep_alive: KeepAlive | UnsetType = UNSET
    context_length: Integer | None = None
    adapters: Adapters | None = None
    conversation_id: str | None = None
    reuse: bool | None = None
    speculation: bool | None = None

    def __post_init__(self) -> None:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only for streams: leave it out, or send stream: true")

    @property
    def includes_usage(self) -> bool:
        """Whether the stream ends with a chunk that has the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def wishes(self) -> Fields:
        """The fields for the service that may need rights."""
        return {"keep_alive": self.keep_alive, "priority": self.priority}

    @property
    def given(self) -> dict[str, Any]:
        """What was given for the service, under the same names."""
        found = ((name, getattr(self, name)) for name in _passed(type(self)))
        return {name: value for name, value in found if value is not None and value is not UNSET}

    @property
    def fields(self) -> Fields:
        """The request as the service takes it."""
        return {"model_id": self.model, **self.given}


@cache
def _passed(kind: type[Sampled]) -> tuple[str, ...]:
    return tuple(each for each in kind.__struct_fields__ if each not in kind.own)
