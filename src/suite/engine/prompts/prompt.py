"""From a request to the tokens of its prompt: the text as it stands, or a chat through a template."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from suite.engine.prompts.rendering import PATIENT_NICE, QUICK_SECONDS, Renderer, SlowChat
from suite.engine.vocabulary import Vocabulary
from suite.errors import (
    EmptyPrompt,
    InvalidChat,
    InvalidConfiguration,
    InvalidRequest,
    NoChatTemplate,
    Overloaded,
    PromptTooLong,
)
from suite.identity import NewId, Now
from suite.messages.actions.chat import ChatMessage, Tool, ToolCall
from suite.messages.actions.generation import GenerateTextRequest

AT_ONCE = 4
"""As many prompts are made at once: one that takes long holds up no other."""
SLOW_LIMIT = 16
"""As many chats as take their template long may wait, and are made one at a time."""
TEMPLATE_FILE_BYTES = 1 << 20
_LARGE = 1 << 17
"""Characters that take a tokenizer the better part of a second: more are looked at before it gets them."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What a generation starts from."""

    tokens: list[int]
    truncated_tokens: int = 0
    """How many were cut, as the request allowed; of a large text at least so many."""


class Prompter:
    """Makes prompts for one model. Long ones take seconds (a template, a tokenizer): loops use `begin`."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        context_tokens: int,
        now: Now,
        new_id: NewId,
        *,
        chat_template: str | None = None,
    ) -> None:
        """`chat_template` is used instead of the model's own: a template, or the path of a file with one."""
        self._vocabulary = vocabulary
        self._context_tokens = context_tokens
        self._now = now
        self._new_id = new_id
        self._configured = chat_template
        self._renderers: dict[bool, Renderer] = {}
        """The patient one, and the one for quick chats."""
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="prompt")
        self._slow_thread = ThreadPoolExecutor(1, thread_name_prefix="slow-prompt")
        self._slow = 0

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's."""
        return self._vocabulary

    def begin(self, request: GenerateTextRequest) -> Future[Prompt]:
        """Have the prompt of a request made in a thread; it ends as `prompt` does, or with Overloaded.

        One that is cancelled before its turn is not made. Those that come first need not be done first: a
        chat that takes its template long is given up, and made again behind others of its kind.
        """
        made: Future[Prompt] = Future()
        self._submit(self._threads, made, request, patient=False)
        return made

    def _submit(
        self,
        threads: ThreadPoolExecutor,
        made: Future[Prompt],
        request: GenerateTextRequest,
        *,
        patient: bool,
    ) -> None:
        def over(work: Future[None]) -> None:
            if work.cancelled():
                made.cancel()
            if patient:
                with self._lock:
                    self._slow -= 1

        threads.submit(self._make, made, request, patient=patient).add_done_callback(over)

    def _make(self, made: Future[Prompt], request: GenerateTextRequest, *, patient: bool) -> None:
        if made.cancelled():
            return
        try:
            prompt = self.prompt(request, patient=patient)
        except SlowChat:
            self._make_later(made, request)
        except Exception as error:
            if made.set_running_or_notify_cancel():
                made.set_exception(error)
        else:
            if made.set_running_or_notify_cancel():
                made.set_result(prompt)

    def _make_later(self, made: Future[Prompt], request: GenerateTextRequest) -> None:
        with self._lock:
            is_full = self._slow >= SLOW_LIMIT
            self._slow += not is_full
        if not is_full:
            self._submit(self._slow_thread, made, request, patient=True)
        elif made.set_running_or_notify_cancel():
            made.set_exception(
                Overloaded(f"{SLOW_LIMIT} chats wait already that take the model's chat template long")
            )

    def prompt(self, request: GenerateTextRequest, *, patient: bool = True) -> Prompt:
        """The prompt of a request, cut if it allows that and it has to be.

        Raises EmptyPrompt, PromptTooLong, NoChatTemplate, InvalidChat, InvalidRequest, or
        InvalidConfiguration for a configured template that cannot be read; and SlowChat for a chat that takes
        its template long, unless told to be `patient`.
        """
        if request.continue_:
            return Prompt(tokens=self._continuation(request, patient))
        text = self.text(request, patient=patient)
        surplus = self._surplus(text)
        if surplus and request.truncate is None:
            raise self._too_long(f"{len(text)} characters")
        tokens = self._tokenized(text[surplus:])
        if not surplus and len(tokens) < self._context_tokens:
            return Prompt(tokens=tokens)
        if request.truncate is None:
            raise self._too_long(f"{len(tokens)} tokens")
        kept = self._cut(request, tokens, patient)
        unread = -(-surplus // self._vocabulary.longest_piece) if surplus else 0
        return Prompt(tokens=kept, truncated_tokens=unread + len(tokens) - len(kept))

    def text(self, request: GenerateTextRequest, *, patient: bool = True) -> str:
        """The text to start from, whole. Raises what `prompt` raises, but for its length."""
        if request.messages is None:
            return _plain(request)
        return self._chat(request, _with_system(request.messages, request.system_prompt), patient)

    def _continuation(self, request: GenerateTextRequest, patient: bool) -> list[int]:
        """The tokens of a new turn, from the end of the answer before it on."""
        if request.truncate is not None:
            raise InvalidRequest(
                "truncate and continue are both given: what a conversation holds is not cut, send it whole"
            )
        if request.messages is None:
            text = _plain(request)
        else:
            # What a template puts between an answer and the next turn shows after an answer that is known,
            # and that no message can have in it.
            answer = self._new_id()
            before = (ChatMessage(role="user", content="-"), ChatMessage(role="assistant", content=answer))
            _, mark, text = self._chat(request, (*before, *request.messages), patient).rpartition(answer)
            if not mark:
                raise InvalidChat("the chat template cannot go on after an answer: send the chat whole")
        if self._surplus(text):
            raise self._too_long(f"{len(text)} characters")
        tokens = self._vocabulary.tokenize(text, begins=False)
        if not tokens:
            raise EmptyPrompt
        return tokens

    def warm_up(self) -> None:
        """Compile the template, if there is one, before the first chat needs it."""
        if self._configured is not None or self._vocabulary.chat_template is not None:
            self._rendering(patient=False).start()

    def close(self) -> None:
        """End what makes prompts."""
        self._threads.shutdown(cancel_futures=True)
        self._slow_thread.shutdown(cancel_futures=True)
        for renderer in self._renderers.values():
            renderer.close()

    def _rendering(self, *, patient: bool) -> Renderer:
        with self._lock:  # the warm-up and the first chat may come together
            if patient not in self._renderers:
                self._renderers[patient] = self._new_renderer(patient)
            return self._renderers[patient]

    def _new_renderer(self, patient: bool) -> Renderer:
        vocabulary = self._vocabulary
        source, tool_source = vocabulary.chat_template, vocabulary.tool_template
        if self._configured is not None:
            source, tool_source = _read(self._configured), None
        if source is None:
            raise NoChatTemplate
        return Renderer(
            source,
            tool_source=tool_source,
            bos=vocabulary.bos,
            eos=vocabulary.eos,
            now=self._now,
            quick_seconds=None if patient else QUICK_SECONDS,
            nice=PATIENT_NICE if patient else 0,
        )

    def _chat(self, request: GenerateTextRequest, messages: Sequence[ChatMessage], patient: bool) -> str:
        tools = () if request.tool_choice == "none" else request.tools
        text = self._rendering(patient=patient).render(
            [_message(each) for each in messages], [_tool(each) for each in tools]
        )
        vocabulary = self._vocabulary
        # The tokenizer adds the token itself: a template that also writes it would double it.
        if vocabulary.adds_bos and vocabulary.bos:
            text = text.removeprefix(vocabulary.bos)
        return text

    def _tokenized(self, text: str) -> list[int]:
        tokens = self._vocabulary.tokenize(text)
        if not tokens:
            raise EmptyPrompt
        return tokens

    def _surplus(self, text: str) -> int:
        """Characters at the beginning of a text without which it still fills the context. 0 for most texts.

        A token is no longer than the vocabulary's longest, and a character a byte or more.
        """
        if len(text) <= max(_LARGE, self._context_tokens):
            return 0
        return max(0, len(text) - self._context_tokens * self._vocabulary.longest_piece)

    def _too_long(self, size: str) -> PromptTooLong:
        return PromptTooLong(
            f"the prompt has {size} and the model's context {self._context_tokens} tokens: "
            "shorten it, configure a larger context_length or send truncate: left"
        )

    # --- too long -------------------------------------------------------------------------------------------

    def _cut(self, request: GenerateTextRequest, tokens: list[int], patient: bool) -> list[int]:
        """As much of the end as leaves room for the answer."""
        room = self._context_tokens - min(request.max_tokens, max(1, self._context_tokens // 4))
        if request.messages is not None:
            tokens = self._without_oldest(request, request.messages, room, patient)
        if len(tokens) <= room:
            return tokens
        first = tokens[: int(self._vocabulary.adds_bos)]  # a model may go astray without it
        return first + tokens[len(tokens) - (room - len(first)) :]

    def _end_of(self, text: str) -> list[int]:
        """The tokens of a text, or more of its end than fit."""
        return self._tokenized(text[self._surplus(text) :])

    def _without_oldest(
        self, request: GenerateTextRequest, messages: tuple[ChatMessage, ...], room: int, patient: bool
    ) -> list[int]:
        """The chat without its oldest turns: as few as have to go, all but the last if that is not enough."""
        # Turn by turn: many templates insist that user and assistant take turns, and a tool's answer needs
        # its call.
        turns = [index for index, message in enumerate(messages) if message.role == "user"]
        if len(turns) < 2:
            return self._end_of(self.text(request, patient=patient))

        def without(count: int) -> list[int]:
            kept = messages[: turns[0]] + messages[turns[count] :]
            return self._end_of(self._chat(request, _with_system(kept, request.system_prompt), patient))

        most = len(turns) - 1
        fewest = bisect_left(range(1, most), True, key=lambda count: len(without(count)) <= room) + 1
        return without(fewest)


def _read(configured: str) -> str:
    """The template that a setting holds or names."""
    if "{{" in configured or "{%" in configured:
        return configured
    try:
        with Path(configured).open("rb") as file:
            content = file.read(TEMPLATE_FILE_BYTES + 1)
        if len(content) > TEMPLATE_FILE_BYTES:
            raise ValueError(f"it has more than {TEMPLATE_FILE_BYTES} bytes")
        return content.decode()
    except (OSError, ValueError) as error:
        raise InvalidConfiguration(
            f"the model's chat_template {configured!r} cannot be read: {error}"
        ) from None


def _message(message: ChatMessage) -> dict[str, Any]:
    """A message as templates know it: content is text always, and what it does not have is not there."""
    fields: dict[str, Any] = {"role": message.role, "content": message.content or ""}
    if message.tool_calls:
        fields["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        fields["name"] = message.name
    return fields


def _call(call: ToolCall) -> dict[str, Any]:
    """A call with its arguments as an object, which is what templates put into JSON themselves."""
    arguments: object = call.function.arguments
    with suppress(msgspec.DecodeError, RecursionError):  # what is no JSON goes back as the model wrote it
        arguments = msgspec.json.decode(call.function.arguments)
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": call.type, "function": function}


def _tool(tool: Tool) -> dict[str, Any]:
    function = {
        "name": tool.function.name,
        "description": tool.function.description,
        "parameters": tool.function.parameters,
    }
    return {
        "type": tool.type,
        "function": {name: value for name, value in function.items() if value is not None},
    }


def _plain(request: GenerateTextRequest) -> str:
    if not request.prompt:
        raise EmptyPrompt
    if request.tools:
        raise InvalidChat("tools need messages: a prompt is continued as it stands")
    if not request.system_prompt:
        return request.prompt
    return f"{request.system_prompt}\n\n{request.prompt}"


def _with_system(messages: tuple[ChatMessage, ...], system: str | None) -> tuple[ChatMessage, ...]:
    """The chat with its system prompt first; one that begins with its own system message has both in it."""
    if not any(message.content or message.tool_calls for message in messages):
        raise EmptyPrompt
    if not system:
        return messages
    if messages[0].role == "system":
        system, messages = f"{system}\n\n{messages[0].content or ''}", messages[1:]
    return (ChatMessage(role="system", content=system), *messages)
