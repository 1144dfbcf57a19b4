"""``/v1/completions``: texts that go on from prompts, several in one request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from suite.gateway.encoding import encode
from suite.gateway.generations import Fields
from suite.gateway.openai.chat import choices_of
from suite.gateway.openai.form import DONE, OpenAIForm
from suite.gateway.openai.sampling import Sampled
from suite.gateway.openai.usage import Usage, finish_reason, usage_of
from suite.gateway.sse import event
from suite.messages.actions.generation import GenerateTextReply
from suite.messages.logprobs import PromptToken, TokenLogprobs
from suite.messages.signals import Chunk

DEFAULT_TOKENS: Final = 16
"""What OpenAI's API generates unless it is told otherwise."""
MOST_TEXTS: Final = 256
"""How many texts one request may have generated: its prompts, times ``n``."""

TokenId: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TokenIds: TypeAlias = Annotated[tuple[TokenId, ...], Meta(min_length=1)]
OnePrompt: TypeAlias = str | tuple[int, ...]


class CompletionRequest(Sampled, frozen=True, kw_only=True):
    """A request to ``/v1/completions``. Unknown parameters are ignored, and null counts as left out."""

    own = Sampled.own | {"prompt", "echo", "logprobs", "max_tokens"}

    prompt: str | Annotated[tuple[str | TokenId | TokenIds, ...], Meta(min_length=1)]
    """A text, token ids, or a list of either: then each is a prompt of its own."""
    suffix: str | None = None
    """What follows the text to generate, for models that can fill in."""
    echo: bool | None = None
    """True: the texts begin with their prompts."""
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Report the log probabilities of the tokens, and of this many alternatives; with ``echo`` also of the
    prompt's tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.prompt, str):
            return
        if len({type(each) for each in self.prompt}) > 1:
            raise ValueError("prompt has texts and token ids mixed: send texts, or lists of token ids")
        if (texts := len(self.prompts) * self.answers) > MOST_TEXTS:
            raise ValueError(
                f"{len(self.prompts)} prompts x n {self.answers} are {texts} texts, and {MOST_TEXTS} are the "
                "most: send several requests"
            )

    @property
    def prompts(self) -> tuple[OnePrompt, ...]:
        """Each prompt, as text or as token ids."""
        if isinstance(self.prompt, str):
            return (self.prompt,)
        ids = tuple(each for each in self.prompt if isinstance(each, int))
        return (ids,) if ids else tuple(each for each in self.prompt if not isinstance(each, int))

    @property
    def echoes_logprobs(self) -> bool:
        """Whether the log probabilities of the prompt's tokens are wanted."""
        return bool(self.echo) and self.logprobs is not None

    @property
    def answers(self) -> int:
        """How many answers each prompt gets."""
        return self.n or 1

    def fields_of(self, prompt: OnePrompt) -> Fields:
        """The request as the service takes it, for one of its prompts."""
        fields = {"prompt": prompt, **self.fields, "max_tokens": DEFAULT_TOKENS}
        if self.max_tokens is not None:
            fields["max_tokens"] = self.max_tokens
        if self.logprobs is not None:
            fields["logprobs"] = self.logprobs
        if self.echoes_logprobs:
            fields["prompt_logprobs"] = self.logprobs
        return fields


read_completion: Final = msgspec.json.Decoder(CompletionRequest).decode


class LogProbs(msgspec.Struct, frozen=True, kw_only=True):
    """The log probabilities of the tokens of a text, in lists of the same length."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """Where each token begins in the text, in characters."""


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One of the texts, or the next piece of it."""

    text: str
    index: int
    logprobs: LogProbs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/v1/completions``, and each event of it when it is streamed."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: tuple[CompletionChoice, ...]
    usage: Usage | UnsetType | None = UNSET


class Echo(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent of a prompt before the texts that go on from it."""

    text: str = ""
    tokens: tuple[PromptToken, ...] = ()


class Echoed(NamedTuple):
    """The reply to a prompt, and what is sent of the prompt before it."""

    echo: Echo
    reply: GenerateTextReply


def completion(echoed: Sequence[Echoed], *, id: str, created: int) -> Completion:
    """The answer to a request that is not streamed, of all its prompts in their order."""
    choices = chain.from_iterable(map(_choices, echoed))
    return Completion(
        id=id,
        created=created,
        model=echoed[0].reply.model_id,
        choices=tuple(msgspec.structs.replace(each, index=index) for index, each in enumerate(choices)),
        usage=usage_of(each.reply.usage for each in echoed),
    )


def _choices(echoed: Echoed) -> Iterable[CompletionChoice]:
    """The texts that go on from one prompt, counted from 0."""
    echo = echoed.echo
    for choice in choices_of(echoed.reply):
        logprobs = None if choice.logprobs is None else _logprobs((*echo.tokens, *choice.logprobs), 0)
        yield CompletionChoice(
            text=echo.text + choice.text,
            index=choice.index,
            logprobs=logprobs,
            finish_reason=finish_reason(choice.finish_reason),
        )


def _logprobs(tokens: Sequence[TokenLogprobs | PromptToken], offset: int) -> LogProbs:
    offsets = []
    for each in tokens:
        offsets.append(offset)
        offset += len(each.token)
    return LogProbs(
        tokens=[each.token for each in tokens],
        token_logprobs=[each.logprob for each in tokens],
        top_logprobs=[
            None if each.logprob is None else {top.token: top.logprob for top in each.top_logprobs}
            for each in tokens
        ],
        text_offset=offsets,
    )


class CompletionEvents(OpenAIForm):
    """The events of a streamed completion, of all its prompts."""

    def __init__(self, request: CompletionRequest, *, id: str, created: int) -> None:
        self._id = id
        self._created = created
        self._model = request.model
        self._includes_usage = request.includes_usage
        self._no_usage: UnsetType | None = None if request.includes_usage else UNSET
        self._answers = request.answers
        self._offsets: dict[int, int] = {}

    def echo(self, prompt: int, echo: Echo) -> bytes:
        """The events with a prompt, for each text that goes on from it."""
        first = prompt * self._answers
        return b"".join(self._event(index, echo.text, None) for index in range(first, first + self._answers))

    def whole(self, prompt: int, echoed: Echoed) -> bytes:
        """The events with the texts of a prompt as a whole."""
        return b"".join(
            self._encoded(
                (msgspec.structs.replace(each, index=prompt * self._answers + each.index),), self._no_usage
            )
            for each in _choices(echoed)
        )

    def chunk(self, prompt: int, chunk: Chunk) -> bytes:
        """The event for the next text of a prompt."""
        index = prompt * self._answers + chunk.choice
        logprobs = None
        if chunk.logprobs is not None:
            logprobs = _logprobs(chunk.logprobs, self._offsets.get(index, 0))
        return self._event(index, chunk.text, logprobs)

    def end(self, prompt: int, reply: GenerateTextReply) -> bytes:
        """The events with the reasons why the texts of a prompt ended."""
        return b"".join(
            self._event(prompt * self._answers + each.index, "", None, finish_reason(each.finish_reason))
            for each in choices_of(reply)
        )

    def done(self, echoed: Iterable[Echoed]) -> bytes:
        """The last events."""
        usage = usage_of(each.reply.usage for each in echoed)
        return (self._encoded((), usage) if self._includes_usage else b"") + DONE

    def _event(
        self,
        index: int,
        text: str,
        logprobs: LogProbs | None,
        reason: Literal["stop", "length"] | None = None,
    ) -> bytes:
        self._offsets[index] = self._offsets.get(index, 0) + len(text)
        choice = CompletionChoice(text=text, index=index, logprobs=logprobs, finish_reason=reason)
        return self._encoded((choice,), self._no_usage)

    def _encoded(self, choices: tuple[CompletionChoice, ...], usage: Usage | UnsetType | None) -> bytes:
        chunk = Completion(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )
        return event(encode(chunk))
