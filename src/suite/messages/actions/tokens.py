"""Tokens of texts and texts of tokens, and the texts that chats become."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from suite.messages.actions.base import KeepAlive, LoadWait, ModelId, Reply, Request
from suite.messages.actions.chat import ChatMessage, Tool, ToolChoice
from suite.messages.actions.generation import TokenId


class TokenizeRequest(Request, frozen=True, kw_only=True):
    """Turn a text into the model's tokens; the model is loaded first if it is not."""

    model_id: ModelId
    text: str
    add_special: bool = True
    """True: with the tokens that the model expects at the start of a text, as for a ``prompt``."""
    parse_special: bool = True
    """Names of special tokens in the text become those tokens, as in a ``prompt``; false: they are text."""
    pieces: bool = True
    """False: without the text of each token."""
    load_wait_ms: LoadWait = None
    keep_alive: KeepAlive = None


class TokenizeReply(Reply, frozen=True, kw_only=True):
    """The tokens of the text, in order."""

    model_id: str
    tokens: tuple[int, ...]
    pieces: tuple[str, ...] | None = None
    """The text of each token; an incomplete character is shown as U+FFFD. Null if they were not wanted."""
    count: int


class DetokenizeRequest(Request, frozen=True, kw_only=True):
    """Turn tokens into their text; the model is loaded first if it is not."""

    model_id: ModelId
    tokens: Annotated[tuple[TokenId, ...], Meta(max_length=262_144)]
    load_wait_ms: LoadWait = None
    keep_alive: KeepAlive = None


class DetokenizeReply(Reply, frozen=True, kw_only=True):
    """The text of the tokens."""

    model_id: str
    text: str
    """Special tokens stand in it by their names; an incomplete character is shown as U+FFFD."""


class ApplyTemplateRequest(Request, frozen=True, kw_only=True):
    """Make the prompt of a chat as ``generate_text`` does, and generate nothing.

    The model is loaded first if it is not. The fields are those of ``generate_text``.
    """

    model_id: ModelId
    messages: Annotated[tuple[ChatMessage, ...], Meta(min_length=1)]
    tools: Annotated[tuple[Tool, ...], Meta(max_length=128)] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    system_prompt: str | None = None
    load_wait_ms: LoadWait = None
    keep_alive: KeepAlive = None


class ApplyTemplateReply(Reply, frozen=True, kw_only=True):
    """The prompt that the chat becomes."""

    model_id: str
    text: str
    """Without what the model puts at the start of every text, which the tokenizer adds."""
    tokens: int
    """How many tokens it is, with those at its start."""
    context_tokens: int
    """How many tokens the model's context has, answer included."""
