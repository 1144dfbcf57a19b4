"""What Ollama's requests to generate have in common."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from suite.gateway.encoding import Integer
from suite.gateway.fields import MOST_TOKENS
from suite.gateway.ollama.keep_alive import KeepAliveRequest

_NAMES = {"num_predict": "max_tokens", "num_ctx": "context_length"}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a generation. Unknown ones are ignored, as Ollama does."""

    num_predict: Integer | None = None
    num_ctx: Integer | None = None
    """The context that the client counts on; refused if the model is configured with less."""
    temperature: float | None = None
    top_k: Integer | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: Integer | None = None
    stop: str | tuple[str, ...] | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """Those that are given, as the service names them."""
        given = {_NAMES.get(name, name): value for name, value in msgspec.structs.asdict(self).items()}
        if given["max_tokens"] is None or given["max_tokens"] < 0:
            given["max_tokens"] = MOST_TOKENS
        return {name: value for name, value in given.items() if value is not None}


class OllamaRequest(KeepAliveRequest, frozen=True, kw_only=True):
    """The base of all requests that generate."""

    stream: bool | None = None
    """Null: true."""
    format: Literal["json", ""] | dict[str, Any] | None = None
    """``json``, or the JSON schema of the answer."""
    options: Options | None = None
    think: bool | str | None = None
    """Whether the model thinks before it answers, if it can be told, or how much."""

    @property
    def is_streamed(self) -> bool:
        """Whether the answer comes in pieces."""
        return self.stream is not False

    @property
    def common_fields(self) -> dict[str, Any]:
        """The fields of a GenerateTextRequest that every request has. Raises InvalidRequest."""
        fields: dict[str, Any] = {"model_id": self.model, **(self.options or Options()).fields}
        if self.format == "json":
            fields["response_format"] = {"type": "json_object"}
        elif isinstance(self.format, dict):
            fields["json_schema"] = self.format
        if self.stay is not None:
            fields["keep_alive"] = self.stay
        if self.think is not None:
            fields["chat_template_kwargs"] = {"enable_thinking": self.think not in (False, "")}
        return fields
