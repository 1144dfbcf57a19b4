"""Turns a request into the tokens of its prompt: its text as it stands, or its chat by the chat template."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from suite.engine.backend import LeaveCore
from suite.engine.prompts.rendering import PATIENT_NICE, QUICK_SECONDS, Renderer, SlowChat
from suite.engine.vocabulary import Vocabulary
from suite.errors import (
    CannotFillIn,
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

T = TypeVar("T")

MAX_CONCURRENT = 4
"""The most prompts that are made at the same time, so that a slow one does not delay the others."""
SLOW_LIMIT = 16
"""The most chats with a slow template that may wait; they are made one at a time."""
TEMPLATE_FILE_BYTES = 1 << 20
_LARGE = 1 << 17
"""Characters that take a tokenizer most of a second: of longer texts, what surely overflows is cut first."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens that a generation starts from."""

    tokens: list[int]
    truncated_tokens: int = 0
    """How many tokens were cut because the request allows it; a lower bound for very long texts."""


class Prompter:
    """Makes prompts for one model. That can take seconds, so an event loop uses `submit`."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        context_tokens: int,
        now: Now,
        new_id: NewId,
        *,
        chat_template: str | None = None,
        leave_core: LeaveCore = nullcontext,
    ) -> None:
        """`chat_template` replaces the model's own: the text of a template, or the path of a file.

        `leave_core` is entered while a template takes long: models then compute with a thread less.
        """
        self._leave_core = leave_core
        self._vocabulary = vocabulary
        self._context_tokens = context_tokens
        self._now = now
        self._new_id = new_id
        self._configured = chat_template
        self._renderers: dict[bool, Renderer] = {}
        """The patient one, and the one for quick chats."""
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="prompt")
        self._slow_thread = ThreadPoolExecutor(1, thread_name_prefix="slow-prompt")
        self._slow = 0

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's vocabulary."""
        return self._vocabulary

    def submit(self, request: GenerateTextRequest) -> Future[Prompt]:
        """Make the prompt of a request in a thread. The future has the result or the error of `prompt`, or
        Overloaded.

        Cancelling it before it starts prevents it. Prompts may finish in another order than submitted: a chat
        that takes its template long is given up, and made again behind others of its kind.
        """
        return self._submitted(lambda patient: self.prompt(request, patient=patient))

    def submit_text(self, request: GenerateTextRequest) -> Future[str]:
        """Make the text of a request's prompt in a thread, as `submit` does, of whatever length it is."""
        return self._submitted(lambda patient: self.text(request, patient=patient))

    def _submitted(self, make: Callable[[bool], T]) -> Future[T]:
        made: Future[T] = Future()
        self._submit(self._threads, made, make, patient=False)
        return made

    def _submit(
        self, threads: ThreadPoolExecutor, made: Future[T], make: Callable[[bool], T], *, patient: bool
    ) -> None:
        def over(work: Future[None]) -> None:
            if work.cancelled():
                made.cancel()
            if patient:
                with self._lock:
                    self._slow -= 1

        threads.submit(self._make, made, make, patient=patient).add_done_callback(over)

    def _make(self, made: Future[T], make: Callable[[bool], T], *, patient: bool) -> None:
        if made.cancelled():
            return
        try:
            with self._leave_core() if patient else nullcontext():
                result = make(patient)
        except SlowChat:
            self._make_later(made, make)
        except Exception as error:
            if made.set_running_or_notify_cancel():
                made.set_exception(error)
        else:
            if made.set_running_or_notify_cancel():
                made.set_result(result)

    def _make_later(self, made: Future[T], make: Callable[[bool], T]) -> None:
        with self._lock:
            is_full = self._slow >= SLOW_LIMIT
            self._slow += not is_full
        if not is_full:
            self._submit(self._slow_thread, made, make, patient=True)
        elif made.set_running_or_notify_cancel():
            made.set_exception(
                Overloaded(f"{SLOW_LIMIT} chats wait already that take the model's chat template long")
            )

    def prompt(self, request: GenerateTextRequest, *, patient: bool = True) -> Prompt:
        """Make the prompt of a request. It is cut if it is too long and the request allows that.

        Raises EmptyPrompt, PromptTooLong, NoChatTemplate, InvalidChat, InvalidRequest, CannotFillIn, or
        InvalidConfiguration for a configured template that cannot be read; and SlowChat for a chat that takes
        its template long, unless told to be `patient`.
        """
        if request.continue_:
            return Prompt(tokens=self._continuation(request, patient))
        if request.suffix:
            return Prompt(tokens=self._gap(request, request.suffix))
        if (ids := self._ids(request)) is not None:
            return self._fitted(request, ids, 0, patient)
        text = self.text(request, patient=patient)
        surplus = self._surplus(text)
        if surplus and request.truncate is None:
            raise self._too_long(f"{len(text)} characters")
        return self._fitted(request, self._tokenized(text[surplus:]), surplus, patient)

    def _fitted(self, request: GenerateTextRequest, tokens: list[int], surplus: int, patient: bool) -> Prompt:
        """The prompt of these tokens, cut if need be. So many characters before them were cut already."""
        if not surplus and len(tokens) < self._context_tokens:
            return Prompt(tokens=tokens)
        if request.truncate is None:
            raise self._too_long(f"{len(tokens)} tokens")
        kept = self._cut(request, tokens, patient)
        unread = -(-surplus // self._vocabulary.longest_piece) if surplus else 0
        return Prompt(tokens=kept, truncated_tokens=unread + len(tokens) - len(kept))

    def text(self, request: GenerateTextRequest, *, patient: bool = True) -> str:
        """The whole text of the prompt. Raises the errors of `prompt`, except PromptTooLong."""
        if request.messages is None:
            return _plain(request)
        return self._chat(request, _with_system(request.messages, request.system_prompt), patient)

    def _ids(self, request: GenerateTextRequest) -> list[int] | None:
        """The tokens of a prompt that is sent as such; None if it is a text. Raises InvalidRequest."""
        if not isinstance(request.prompt, tuple):
            return None
        if request.system_prompt or request.tools:
            raise InvalidRequest("a prompt of token ids is taken as it is: send a text for more beside it")
        self._vocabulary.check(request.prompt)
        return list(request.prompt)

    def _gap(self, request: GenerateTextRequest, suffix: str) -> list[int]:
        """The tokens of a text with a gap between the prompt and the suffix. Names in both are text."""
        before, vocabulary = self._ids(request), self._vocabulary
        text = _plain(request) if before is None and request.prompt else ""
        if self._surplus(text + suffix):
            raise self._too_long(f"{len(text) + len(suffix)} characters")
        if before is None:
            before = vocabulary.tokenize(text, begins=False, special=False)
        tokens = vocabulary.filling(before, vocabulary.tokenize(suffix, begins=False, special=False))
        if tokens is None:
            raise CannotFillIn
        if len(tokens) >= self._context_tokens:
            raise self._too_long(f"{len(tokens)} tokens")
        return tokens

    def _continuation(self, request: GenerateTextRequest, patient: bool) -> list[int]:
        """The tokens of a new turn, starting right after the previous answer."""
        if request.truncate is not None:
            raise InvalidRequest(
                "truncate and continue cannot be combined: send the whole conversation to have it cut"
            )
        if (ids := self._ids(request)) is not None:
            return ids
        if request.messages is None:
            text = _plain(request)
        else:
            # To learn what the template puts between an answer and the next turn, render the turn after an
            # answer that is known and cannot occur in any message.
            answer = self._new_id()
            before = (ChatMessage(role="user", content="-"), ChatMessage(role="assistant", content=answer))
            _, mark, text = self._chat(request, (*before, *request.messages), patient).rpartition(answer)
            if not mark:
                raise InvalidChat("the chat template cannot continue after an answer: send the whole chat")
        if self._surplus(text):
            raise self._too_long(f"{len(text)} characters")
        tokens = self._vocabulary.tokenize(text, begins=False)
        if not tokens:
            raise EmptyPrompt
        return tokens

    def warm_up(self) -> None:
        """Compile the chat template, if there is one, before the first chat needs it.

        Raises InvalidChat, NoChatTemplate, or InvalidConfiguration.
        """
        if self._configured is not None or self._vocabulary.chat_template is not None:
            with self._leave_core():
                self._rendering(patient=False).start()

    def close(self) -> None:
        """End the threads and the template's process."""
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
        """How many characters at the start of a text surely do not fit into the context; 0 for most texts.

        This follows from the length of the vocabulary's longest token: a character is at least one byte.
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
        """Cut the prompt from the start, to leave room for the answer."""
        room = self._context_tokens - min(request.max_tokens, max(1, self._context_tokens // 4))
        if request.messages is not None:
            tokens = self._without_oldest(request, request.messages, room, patient)
        if len(tokens) <= room:
            return tokens
        first = tokens[: int(self._vocabulary.adds_bos)]  # a model may go astray without it
        return first + tokens[len(tokens) - (room - len(first)) :]

    def _end_of(self, text: str) -> list[int]:
        """The tokens of a text; of one that is far too long, only of its end, which is still too long."""
        return self._tokenized(text[self._surplus(text) :])

    def _without_oldest(
        self, request: GenerateTextRequest, messages: tuple[ChatMessage, ...], room: int, patient: bool
    ) -> list[int]:
        """The chat without its oldest turns: as few as possible are dropped, at most all but the last."""
        # Whole turns are dropped: many templates insist that user and assistant alternate, and a tool's
        # answer needs its call.
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
    """The template in a setting, or in the file that the setting names. Raises InvalidConfiguration."""
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
    """A message as templates expect it: content is always text, and absent fields are left out."""
    fields: dict[str, Any] = {"role": message.role, "content": message.content or ""}
    if message.tool_calls:
        fields["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        fields["name"] = message.name
    return fields


def _call(call: ToolCall) -> dict[str, Any]:
    """A call with its arguments as an object, which templates turn into JSON themselves."""
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
    assert isinstance(request.prompt, str), "token ids have no text to be added to"
    if request.tools:
        raise InvalidChat("tools need messages: send messages instead of a prompt")
    if not request.system_prompt:
        return request.prompt
    return f"{request.system_prompt}\n\n{request.prompt}"


def _with_system(messages: tuple[ChatMessage, ...], system: str | None) -> tuple[ChatMessage, ...]:
    """The chat with the system prompt first, joined with the chat's own system message if it has one."""
    if not any(message.content or message.tool_calls for message in messages):
        raise EmptyPrompt
    if not system:
        return messages
    if messages[0].role == "system":
        system, messages = f"{system}\n\n{messages[0].content or ''}", messages[1:]
    return (ChatMessage(role="system", content=system), *messages)
