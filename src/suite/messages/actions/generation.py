"""Generating text, cancelling that, and forgetting what conversations hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.messages.actions.base import ConversationId, GenerationId, ModelId, Reply, Request, Text
from suite.messages.actions.chat import ChatMessage, ResponseFormat, Tool, ToolCall
from suite.messages.events import Outcome
from suite.messages.logprobs import TokenLogprobs

LogitBias: TypeAlias = Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1000)]


class GenerateTextRequest(Request, frozen=True, kw_only=True):
    """Generate text; the model is loaded first if it is not.

    Give ``messages`` for a chat through the model's own template, or ``prompt`` for text that is
    continued as it stands. ``system_prompt`` becomes the first message, or stands before the prompt
    with an empty line between. ``conversation_id`` says whose tokens are likely still in memory; what is
    reused is decided by comparing tokens, so the whole prompt or chat is sent each time.
    """

    model_id: ModelId
    prompt: str | None = None
    messages: tuple[ChatMessage, ...] | None = None
    tools: Annotated[tuple[Tool, ...], Meta(max_length=128)] = ()
    """What the model may call, told by its chat template; refused where the template knows of no tools."""
    tool_choice: Literal["auto", "none"] = "auto"
    """``none``: it is not told of the ``tools``, and nothing that it writes is taken for a call."""
    truncate: Literal["left"] | None = None
    """What to do with a prompt that is longer than the context: None refuses it.

    ``left`` cuts it at its beginning, so far that the answer has room too: ``max_tokens``, but at most a
    quarter of the context. Of a chat the oldest turns go first, from one user's message to the next, and
    messages before the first user's stay. Not together with ``continue``.
    """
    system_prompt: str | None = None
    max_tokens: Annotated[int, Meta(ge=1)] = 512
    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.7
    """0 takes the likeliest token."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 0.95
    top_k: Annotated[int, Meta(ge=0, lt=2**31)] = 40
    """0: no limit."""
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.05
    typical_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    repeat_penalty: Annotated[float, Meta(ge=0.01, le=10)] = 1.0
    """This and the next two look 64 tokens back, into the prompt too."""
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    logit_bias: LogitBias = msgspec.field(default_factory=dict)
    """Token ids of the model, as text, to what is added to their logits."""
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Tell of each token how likely it was, and of so many others that were likely in its place."""
    grammar: Annotated[str, Meta(min_length=1, max_length=65_536)] | None = None
    """GBNF, llama.cpp's form of grammars, that the answer follows. At most one of this and the next two."""
    json_schema: dict[str, Any] | None = None
    """A JSON schema that the answer follows; warnings name what of it cannot be enforced."""
    response_format: ResponseFormat | None = None
    seed: Annotated[int, Meta(ge=0, lt=2**32)] | None = None
    """The same seed, model and prompt give the same text; none: a fresh one, told in the reply."""
    stop: str | Annotated[tuple[Text, ...], Meta(max_length=16)] = ()
    """Text before which the answer ends."""
    stream: bool = False
    """True: one message a chunk, then the final reply, then an empty message."""
    conversation_id: ConversationId | None = None
    continue_: bool = msgspec.field(default=False, name="continue")
    """True: the prompt or messages are the new turn only, and go on after all that the conversation holds;
    refused with ``conversation_gone`` when its tokens are no longer kept."""
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    """Higher goes first where generations wait for a slot: each step is worth ten seconds of waiting."""
    deadline_ms: Annotated[int, Meta(ge=1, le=86_400_000)] | None = None
    """From its acceptance by the model on: what there is by then, if anything, is the answer
    (``deadline``)."""
    generation_id: GenerationId | None = None
    """To cancel by; made by the service if left out. The same id within two minutes is counted once."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one generation. ``reused_tokens`` of the prompt's were in memory and not decoded again."""

    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of one generation went, from the node's acceptance on."""

    queue_ms: float
    prompt_ms: float
    time_to_first_token_ms: float | None
    generation_ms: float
    tokens_per_second: float | None


class GenerateTextReply(Reply, frozen=True, kw_only=True):
    """The whole text and its figures; of a streamed generation too."""

    text: str
    """What was generated; without the calls, if ``tool_calls`` has them. Chunks show calls as written."""
    tool_calls: tuple[ToolCall, ...] | None = None
    """The calls that the model asks for, if ``tools`` were sent.

    What cannot be read as a call of one of them stays text.
    """
    truncated_tokens: int = 0
    """Tokens of the prompt that ``truncate`` has cut; of a text far over the context at least so many."""
    model_id: str
    generation_id: str
    conversation_id: str | None
    using_kv_cache: bool
    """True when any token was reused."""
    finish_reason: Outcome
    seed: int
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """Of every token that was generated, if they were asked for.

    Those of a stop string, before which the text ends, are among them. None after a stream, of which the
    chunks had them, and with a warning where the reply would be too large for a message.
    """
    usage: Usage
    timings: Timings
    seq: int
    """The ``usage.generated`` event of this generation."""


class CancelGenerationRequest(Request, frozen=True, kw_only=True):
    """End a generation early; its requester gets what there is, with ``finish_reason: cancelled``."""

    generation_id: GenerationId


class CancelGenerationReply(Reply, frozen=True, kw_only=True):
    """The generation was told to end."""

    generation_id: str
    cancelled: bool


class ClearKvCacheRequest(Request, frozen=True, kw_only=True):
    """Forget tokens that the models of the node that answers keep for reuse, in memory and on disk.

    One conversation's, one model's, both together, or all, whether the models are loaded or not. It waits
    for no generation: a conversation that generates goes on unharmed and is forgotten when that ends.
    """

    model_id: ModelId | None = None
    conversation_id: ConversationId | None = None


class ClearKvCacheReply(Reply, frozen=True, kw_only=True):
    """No generation that begins from now on reuses any of these tokens."""

    message: str
    cleared_conversations: int
    """Counted in each model; prompts without a ``conversation_id`` count too."""
    cleared_tokens: int
    """Of a conversation that generates, those it held at that moment."""
