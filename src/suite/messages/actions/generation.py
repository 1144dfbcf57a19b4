"""Generating text, cancelling generations, and clearing the tokens of conversations."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.messages.actions.base import (
    AdapterChoice,
    Adapters,
    ContextLength,
    ConversationId,
    FleetReply,
    GenerationId,
    KeepAlive,
    LoadWait,
    ModelId,
    Reply,
    Request,
    Text,
)
from suite.messages.actions.chat import ChatMessage, ResponseFormat, Tool, ToolCall, ToolChoice
from suite.messages.events import Outcome
from suite.messages.logprobs import PromptToken, TokenLogprobs

TokenId: TypeAlias = Annotated[int, Meta(ge=0, lt=2**31)]
LogitBias: TypeAlias = Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1000)]


class GenerateTextRequest(Request, frozen=True, kw_only=True):
    """Generate text; the model is loaded first if necessary.

    Send ``messages`` for a chat with the model's chat template, or ``prompt`` for a text to continue without
    one. ``system_prompt`` becomes the first message, or is put before the prompt with an empty line between.
    Send the whole prompt or chat each time: ``conversation_id`` names the conversation whose tokens may still
    be in memory, and how many are reused is decided by comparing tokens.

    A field that is left out has the default given here, unless the model comes with one of its own, as those
    of an Ollama store may: see ``defaults`` of its status. A field that is null counts as left out.
    """

    model_id: ModelId
    adapters: Adapters = ()
    """The model is computed with these, and with those that its name stands for; each must fit it. The model
    is in memory once, whatever adapters are used with it."""
    prompt: str | Annotated[tuple[TokenId, ...], Meta(min_length=1)] | None = None
    """A text, or token ids of this model, which are taken as they are."""
    suffix: str | None = None
    """What follows the text to generate, which then fills the gap between ``prompt`` and this.

    Refused if the model has no tokens for it.
    """
    messages: tuple[ChatMessage, ...] | None = None
    tools: Annotated[tuple[Tool, ...], Meta(max_length=128)] = ()
    """Functions that the model may call; told in a system message where the chat template has no place for
    them."""
    tool_choice: ToolChoice = "auto"
    """``none``: the model does not see the ``tools``, and nothing that it writes counts as a call.

    ``required``: it has to call one of them. An object such as ``{"type": "function", "function": {"name":
    "add"}}``: it has to call this one.
    """
    parallel_tool_calls: bool = True
    """False: at most one call in an answer."""
    continue_final_message: bool | None = None
    """True: the last message, an assistant's, is the beginning of the answer, which goes on from there.

    The reply has only what follows. Null: true if the last message is an assistant's without ``tool_calls``.
    """
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    """More variables for the chat template, such as ``{"enable_thinking": false}``; each has its own."""
    truncate: Literal["left"] | None = None
    """What to do with a prompt that is longer than the context: null refuses it.

    ``left`` cuts its beginning, so that there is room for the answer: ``max_tokens``, but at most a quarter
    of the context. In a chat the oldest turns are dropped first, each from one user message to the next;
    messages before the first user message are kept. It cannot be combined with ``continue``.
    """
    system_prompt: str | None = None
    max_tokens: Annotated[int, Meta(ge=0)] = 512
    """Reasoning counts too. 0: only read the prompt, for its ``prompt_logprobs``."""
    max_completion_tokens: Annotated[int, Meta(ge=0)] | None = None
    """Another name of ``max_tokens``."""
    n: Annotated[int, Meta(ge=1, le=16)] = 1
    """How many answers to generate; over 1, ``choices`` of the reply has them all.

    The prompt is read once and counts once. Each answer has a seed of its own: ``seed``, the one after it,
    and so on. A conversation goes on from the first answer.
    """
    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.7
    """0 always takes the likeliest token."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 0.95
    top_k: Annotated[int, Meta(ge=0, lt=2**31)] = 40
    """0: no limit."""
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.05
    typical_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    repeat_penalty: Annotated[float, Meta(ge=0.01, le=10)] = 1.0
    """This and the next two consider the last 64 tokens, those of the prompt included."""
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    logit_bias: LogitBias = msgspec.field(default_factory=dict)
    """Values to add to the logits of tokens, by token id as text."""
    logprobs: bool | Annotated[int, Meta(ge=0, le=20)] | None = None
    """Report the log probability of each token, and of this many alternatives.

    True, as in OpenAI's API: of as many as ``top_logprobs`` says. False: none.
    """
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """The number of alternatives for ``logprobs: true``; null: none."""
    prompt_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Report the log probability of each token of the prompt, and of this many alternatives.

    The whole prompt is decoded then, also where its tokens are in memory. Refused with ``too_large`` where no
    message can hold them all.
    """
    grammar: Annotated[str, Meta(min_length=1, max_length=65_536)] | None = None
    """A grammar for the answer, in llama.cpp's GBNF. Send at most one of this and the next two."""
    json_schema: dict[str, Any] | None = None
    """A JSON schema for the answer; warnings name its keywords that cannot be enforced."""
    response_format: ResponseFormat | None = None
    seed: Annotated[int, Meta(ge=-1, lt=2**32)] | None = None
    """The same seed, model and prompt give the same text on an idle model with ``reuse: false``. Null or -1:
    a random seed, which the reply tells."""
    stop: str | Annotated[tuple[Text, ...], Meta(max_length=16)] = ()
    """The answer ends before this text."""
    stream: bool = False
    """True: one message for each chunk, then the final reply, then an empty message."""
    conversation_id: ConversationId | None = None
    continue_: bool = msgspec.field(default=False, name="continue")
    """True: the prompt or messages are only the new turn, which follows all tokens of the conversation. When
    these tokens are no longer kept, the error is ``conversation_gone``."""
    reuse: bool = True
    """False: the whole prompt is decoded, also where its tokens are in memory. Tokens in memory were decoded
    in batches of another shape, which changes what follows a little, and so sometimes the text. Others may
    still reuse what is decoded here."""
    speculation: bool | None = None
    """Whether the next tokens may be guessed and checked together, where that is faster. The text is what the
    model says either way, and differs a little where the shape of batches does. Null: if ``reuse`` is true.
    """
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    """Generations that wait for memory or for a slot start in the order of priority: each step counts as ten
    seconds of waiting."""
    load_wait_ms: LoadWait = None
    keep_alive: KeepAlive = None
    context_length: ContextLength = None
    deadline_ms: Annotated[int, Meta(ge=1, le=86_400_000)] | None = None
    """The time limit from the acceptance by the model on. The answer then ends with the text so far, with
    ``finish_reason: deadline``."""
    generation_id: GenerationId | None = None
    """The id to cancel it by; the service makes one if left out. The same id counts once in two minutes."""
    attachments: Annotated[str, Meta(pattern=r"^_INBOX(\.[A-Za-z0-9_-]+)+$", max_length=255)] | None = None
    """An inbox of the sender at which the pictures that are ``attached`` are asked for, part by part."""
    requester: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    """For whom the text is generated, such as the id of an API key. It stands in the event of the use."""

    @property
    def alternatives(self) -> int | None:
        """How many alternatives are reported with each token; None: no log probabilities are."""
        if isinstance(self.logprobs, bool):
            return (self.top_logprobs or 0) if self.logprobs else None
        return self.logprobs

    @property
    def speculates(self) -> bool:
        """Whether the next tokens may be guessed: that changes the shape of batches, as reused tokens do."""
        return self.reuse if self.speculation is None else self.speculation

    @property
    def continues_answer(self) -> bool:
        """Whether the last message is the beginning of the answer."""
        if self.continue_final_message is not None or not self.messages:
            return bool(self.continue_final_message)
        last = self.messages[-1]
        return last.role == "assistant" and not last.tool_calls


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one generation. ``reused_tokens`` are prompt tokens in memory that were not decoded again."""

    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    """Those of all answers, reasoning included."""
    reasoning_tokens: int = 0
    """How many of the completion tokens are reasoning, its markers included."""
    drafted_tokens: int = 0
    """Tokens that were guessed, and checked together with those before them."""
    accepted_tokens: int = 0
    """How many of these guesses were right: for so many completion tokens no step was needed."""


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """The times of one generation, since the model accepted it."""

    queue_ms: float
    prompt_ms: float
    time_to_first_token_ms: float | None
    generation_ms: float
    tokens_per_second: float | None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One of several answers to a request."""

    index: int
    """Counts from 0."""
    text: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    finish_reason: Outcome
    stop_text: str | None = None
    """The stop string that ended it, which is not in the text; null if none did."""
    logprobs: tuple[TokenLogprobs, ...] | None = None


class GenerateTextReply(Reply, frozen=True, kw_only=True):
    """The whole text with usage and timings, also after a stream."""

    text: str
    """The generated text, without the calls in ``tool_calls``. Chunks have calls as the model wrote them."""
    reasoning: str | None = None
    """What the model thought before its answer, between its markers for that; null if it did not."""
    choices: tuple[Choice, ...] = ()
    """All answers, if ``n`` is over 1: ``text`` and what else one answer has are then those of the first."""
    tool_calls: tuple[ToolCall, ...] | None = None
    """The model's tool calls, if ``tools`` were sent.

    Whatever cannot be parsed as a call of one of them stays text.
    """
    truncated_tokens: int = 0
    """Prompt tokens cut by ``truncate``; a lower bound for texts far longer than the context."""
    model_id: str
    adapters: tuple[AdapterChoice, ...] = ()
    """What it was computed with."""
    generation_id: str
    conversation_id: str | None
    using_kv_cache: bool
    """True if any token was reused."""
    finish_reason: Outcome
    stop_text: str | None = None
    """The stop string that ended the answer, which is not in the text; null if none did."""
    seed: int
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """The log probabilities of all generated tokens, if requested.

    They include the tokens of a stop string, which is not in the text. Null after a stream, whose chunks had
    them, and with a warning if the reply would be too large for a message.
    """
    prompt_logprobs: tuple[PromptToken, ...] | None = None
    """The log probabilities of the prompt's tokens, if requested; left out like ``logprobs`` if too large."""
    usage: Usage
    timings: Timings
    seq: int
    """The sequence of the ``usage.generated`` event of this generation."""
    version: int | None = None
    """Which version of the model answered, by number. Null: it is not known yet."""
    variant: str | None = None
    """The name that stands for the model with just these adapters. Null: it was not asked for by one."""
    variant_version: int | None = None
    """Which version that is, by number. Null: it is not known yet, or there is no such name."""


class CancelGenerationRequest(Request, frozen=True, kw_only=True):
    """End a generation early; its requester gets the text so far, with ``finish_reason: cancelled``."""

    generation_id: GenerationId


class CancelGenerationReply(FleetReply, frozen=True, kw_only=True):
    """The generation is being ended."""

    generation_id: str
    cancelled: bool


class ClearKvCacheRequest(Request, frozen=True, kw_only=True):
    """Clear the tokens that models keep for reuse, in memory and on disk, on all nodes.

    Those of a conversation, of a model, of both together, or all, whether the models are loaded or not. It
    does not wait for generations: a running one goes on unchanged, and its tokens are cleared when it ends.
    """

    model_id: ModelId | None = None
    conversation_id: ConversationId | None = None


class ClearKvCacheReply(FleetReply, frozen=True, kw_only=True):
    """From now on, no new generation reuses any of these tokens."""

    message: str
    cleared_conversations: int
    """Counted for each model, with prompts that have no ``conversation_id``."""
    cleared_tokens: int
    """For a conversation that is generating, its tokens at that moment."""
