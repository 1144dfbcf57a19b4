"""From a request to the tokens of its prompt: the text as it stands, or a chat through a template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suite.engine.model import Vocabulary
from suite.errors import EmptyPrompt, InvalidChat, NoChatTemplate, PromptTooLong
from suite.identity import Now
from suite.messages.actions import ChatMessage, GenerateTextRequest

if TYPE_CHECKING:
    from suite.engine.chat import ChatTemplate


class Prompter:
    """Makes prompts for one model. Slow for long ones (a template, a tokenizer): not for an event loop."""

    def __init__(self, vocabulary: Vocabulary, context_tokens: int, now: Now) -> None:
        self._vocabulary = vocabulary
        self._context_tokens = context_tokens
        self._now = now
        self._template: ChatTemplate | None = None
        self._given_up = False

    def text(self, request: GenerateTextRequest) -> str:
        """The text to start from. Raises EmptyPrompt, NoChatTemplate or InvalidChat."""
        if request.messages is None:
            return _plain(request)
        return self._chat(_with_system(request.messages, request.system_prompt))

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text. Raises EmptyPrompt or PromptTooLong."""
        tokens = self._vocabulary.tokenize(text)
        if not tokens:
            raise EmptyPrompt
        if len(tokens) >= self._context_tokens:
            raise PromptTooLong(
                f"the prompt has {len(tokens)} tokens and the model's context {self._context_tokens}: "
                "shorten it or configure a larger context_length"
            )
        return tokens

    def warm_up(self) -> None:
        """Compile the template, if there is one, before the first chat needs it."""
        if self._vocabulary.chat_template is not None:
            self._compiled()

    def give_up_template(self) -> InvalidChat:
        """Refuse chats from now on: the template came to no end, and each try leaves a busy thread."""
        self._given_up = True
        return InvalidChat("the model's chat template does not come to an end: send a prompt instead")

    def _compiled(self) -> ChatTemplate:
        if self._given_up:
            raise self.give_up_template()
        if self._template is None:
            from suite.engine.chat import ChatTemplate  # with Jinja, which a start need not wait for

            vocabulary = self._vocabulary
            source = vocabulary.chat_template
            if source is None:
                raise NoChatTemplate
            self._template = ChatTemplate(source, bos=vocabulary.bos, eos=vocabulary.eos, now=self._now)
        return self._template

    def _chat(self, messages: tuple[ChatMessage, ...]) -> str:
        text = self._compiled().render(messages)
        vocabulary = self._vocabulary
        # The tokenizer adds the token itself: a template that also writes it would double it.
        if vocabulary.adds_bos and vocabulary.bos:
            text = text.removeprefix(vocabulary.bos)
        return text


def _plain(request: GenerateTextRequest) -> str:
    if not request.prompt:
        raise EmptyPrompt
    if not request.system_prompt:
        return request.prompt
    return f"{request.system_prompt}\n\n{request.prompt}"


def _with_system(messages: tuple[ChatMessage, ...], system: str | None) -> tuple[ChatMessage, ...]:
    """The chat with its system prompt first; one that begins with its own system message has both in it."""
    if not any(message.content for message in messages):
        raise EmptyPrompt
    if not system:
        return messages
    if messages[0].role == "system":
        system, messages = f"{system}\n\n{messages[0].content}", messages[1:]
    return (ChatMessage(role="system", content=system), *messages)
