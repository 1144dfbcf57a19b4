"""Turns a request into the tokens of its prompt: its text as it stands, or its chat by the chat template."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import NamedTuple, TypeVar

import msgspec

from suite.engine.backend import LeaveCore
from suite.engine.pictures.tokens import Piece, cells
from suite.engine.prompts.call_form import CallForm
from suite.engine.prompts.chat_text import ChatText, ChatWriter, Wishes
from suite.engine.prompts.placed_pictures import without_rest_of_picture
from suite.engine.prompts.rendering import SlowChat
from suite.engine.reasoning import Reasoning
from suite.engine.vocabulary import Vocabulary
from suite.errors import (
    CannotFillIn,
    EmptyPrompt,
    InvalidChat,
    InvalidRequest,
    Overloaded,
    PromptTooLong,
)
from suite.identity import NewId, Now
from suite.messages.actions.chat import ChatMessage
from suite.messages.actions.generation import GenerateTextRequest

T = TypeVar("T")

MAX_CONCURRENT = 4
"""The most prompts that are made at the same time, so that a slow one does not delay the others."""
SLOW_LIMIT = 16
"""The most chats with a slow template that may wait; they are made one at a time."""
_LARGE = 1 << 17
"""Characters that take a tokenizer most of a second: of longer texts, what surely overflows is cut first."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens that a generation starts from."""

    tokens: list[int]
    truncated_tokens: int = 0
    """How many tokens were cut because the request allows it; a lower bound for very long texts."""
    reasoning: Reasoning | None = None
    """How reasoning is told apart from the answer; None: the model has no markers for it."""
    warnings: tuple[str, ...] = ()
    """What of the chat the model does not get as it was sent."""
    pictures: Mapping[int, Piece] = {}
    """The pieces of the pictures in it, by the first of the tokens that stand for each."""


class WrittenPrompt(NamedTuple):
    """A prompt as text."""

    text: str
    tokens: int
    """How many tokens it is, also where the context has fewer."""
    warnings: tuple[str, ...]
    """What of the chat the model does not get as it was sent."""


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
        confined: bool = False,
    ) -> None:
        """`chat_template` replaces the model's own: the text of a template, or the path of a file.

        `leave_core` is entered while a template takes long: models then compute with a thread less.
        `confined`: whether templates are rendered in processes without rights (`suite.confinement`).
        """
        self._leave_core = leave_core
        self._vocabulary = vocabulary
        self._context_tokens = context_tokens
        self._new_id = new_id
        self._chats = ChatWriter(vocabulary, now, new_id, chat_template, confined=confined)
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="prompt")
        self._slow_thread = ThreadPoolExecutor(1, thread_name_prefix="slow-prompt")
        self._slow = 0

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's vocabulary."""
        return self._vocabulary

    def call_form(self) -> CallForm:
        """How the model writes calls of tools. Raises NoChatTemplate or InvalidConfiguration."""
        return self._chats.call_form

    def submit(self, request: GenerateTextRequest) -> Future[Prompt]:
        """Make the prompt of a request in a thread. The future has the result or the error of `prompt`, or
        Overloaded.

        Cancelling it before it starts prevents it. Prompts may finish in another order than submitted: a chat
        that takes its template long is given up, and made again behind others of its kind.
        """
        return self._submitted(lambda patient: self.prompt(request, patient=patient))

    def submit_written(self, request: GenerateTextRequest) -> Future[WrittenPrompt]:
        """Write the prompt of a request in a thread, as `submit` makes one, of whatever length it is."""
        return self._submitted(lambda patient: self.written(request, patient=patient))

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
                # An event loop's future refuses a StopIteration, and whoever awaits it would wait for ever.
                made.set_exception(
                    RuntimeError("the prompt cannot be made") if isinstance(error, StopIteration) else error
                )
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
            return self._continuation(request, patient)
        if request.suffix:
            return Prompt(tokens=self._gap(request, request.suffix))
        if (ids := self._ids(request)) is not None:
            return self._fitted(request, ChatText(""), ids, 0, patient)
        chat = self._written(request, patient)
        surplus = self._surplus(chat.text)
        if surplus and request.truncate is None:
            raise self._too_long(f"{len(chat.text)} characters")
        tokens = self._tokenized(request, chat._replace(text=chat.text[surplus:]))
        return self._fitted(request, chat, tokens, surplus, patient)

    def _fitted(
        self, request: GenerateTextRequest, chat: ChatText, tokens: list[int], surplus: int, patient: bool
    ) -> Prompt:
        """The prompt of these tokens, cut if need be. So many characters before them were cut already."""
        pieces = chat.pictures.pieces
        if not surplus and cells(tokens) < self._context_tokens:
            return self._prompt(chat, tokens)
        if request.truncate is None:
            raise self._too_long(f"{cells(tokens)} tokens")
        kept = self._cut(request, tokens, patient)
        begin = int(self._vocabulary.adds_bos)
        kept[begin:] = without_rest_of_picture(kept[begin:], pieces)
        if cells(kept) >= self._context_tokens:
            raise self._too_long(f"{cells(kept)} tokens after its beginning was cut")
        unread = -(-surplus // self._vocabulary.longest_piece) if surplus else 0
        return self._prompt(chat, kept, unread + len(tokens) - len(kept))

    def _prompt(self, chat: ChatText, tokens: list[int], truncated_tokens: int = 0) -> Prompt:
        return Prompt(
            tokens=tokens,
            truncated_tokens=truncated_tokens,
            reasoning=self._chats.reasoning_of(chat),
            warnings=chat.warnings,
            pictures=chat.pictures.pieces,
        )

    def text(self, request: GenerateTextRequest, *, patient: bool = True) -> str:
        """The whole text of the prompt. Raises the errors of `prompt`, except PromptTooLong."""
        return self._written(request, patient).unmarked

    def written(self, request: GenerateTextRequest, *, patient: bool = True) -> WrittenPrompt:
        """The whole text of the prompt, and how many tokens it is. Raises the errors of `text`."""
        chat = self._written(request, patient)
        return WrittenPrompt(chat.unmarked, len(self._tokenized(request, chat)), chat.warnings)

    def _written(self, request: GenerateTextRequest, patient: bool) -> ChatText:
        if request.messages is None:
            return self._plain(request)
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
        if not request.prompt and (request.system_prompt or request.tools):
            raise InvalidRequest(
                "system_prompt and tools with a suffix need a prompt before the gap: send one"
            )
        text = _plain_text(request) if before is None and request.prompt else ""
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

    def _continuation(self, request: GenerateTextRequest, patient: bool) -> Prompt:
        """The prompt of a new turn, starting right after the previous answer."""
        if request.truncate is not None:
            raise InvalidRequest(
                "truncate and continue cannot be combined: send the whole conversation to have it cut"
            )
        if (ids := self._ids(request)) is not None:
            return self._prompt(ChatText(""), ids)
        if request.messages is None:
            chat = self._plain(request)
        else:
            # To learn what the template puts between an answer and the next turn, render the turn after an
            # answer that is known and cannot occur in any message.
            answer = self._new_id()
            before = (ChatMessage(role="user", content="-"), ChatMessage(role="assistant", content=answer))
            chat = self._chat(request, (*before, *request.messages), patient)
            _, mark, text = chat.text.rpartition(answer)
            if not mark:
                raise InvalidChat("the chat template cannot continue after an answer: send the whole chat")
            chat = chat._replace(text=text)
        if self._surplus(chat.text):
            raise self._too_long(f"{len(chat.text)} characters")
        return self._prompt(chat, self._tokenized(request, chat, begins=False))

    def warm_up(self) -> None:
        """Prepare what the first prompt needs: the compiled chat template, the markers of the vocabulary.

        Raises InvalidChat or InvalidConfiguration.
        """
        with self._leave_core():
            self._chats.warm_up()

    def close(self) -> None:
        """End the threads and the template's process."""
        self._threads.shutdown(cancel_futures=True)
        self._slow_thread.shutdown(cancel_futures=True)
        self._chats.close()

    def _chat(self, request: GenerateTextRequest, messages: Sequence[ChatMessage], patient: bool) -> ChatText:
        wishes = Wishes(
            () if request.tool_choice == "none" else request.tools,
            request.chat_template_kwargs,
            request.continues_answer,
        )
        return self._chats.write(messages, wishes, patient=patient)

    def _plain(self, request: GenerateTextRequest) -> ChatText:
        text = _plain_text(request)
        form = self._chats.reasoning
        return ChatText(text, thinks=form is not None and form.opens(text))

    def _tokenized(self, request: GenerateTextRequest, chat: ChatText, *, begins: bool = True) -> list[int]:
        if request.messages is None:
            tokens = self._vocabulary.tokenize(chat.text, begins=begins)
        else:
            tokens = self._chats.tokens(chat, begins=begins)
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
            tokens = self._without_oldest(
                request, request.messages, lambda kept: cells(kept) <= room, patient
            )
        if len(tokens) <= room:
            return tokens
        first = tokens[: int(self._vocabulary.adds_bos)]  # a model may go astray without it
        return first + tokens[len(tokens) - (room - len(first)) :]

    def _end_of(self, request: GenerateTextRequest, chat: ChatText) -> list[int]:
        """The tokens of a text; of one that is far too long, only of its end, which is still too long."""
        return self._tokenized(request, chat._replace(text=chat.text[self._surplus(chat.text) :]))

    def _without_oldest(
        self,
        request: GenerateTextRequest,
        messages: tuple[ChatMessage, ...],
        fits: Callable[[list[int]], bool],
        patient: bool,
    ) -> list[int]:
        """The chat without its oldest turns: as few as possible are dropped, at most all but the last."""
        # Whole turns are dropped: many templates insist that user and assistant alternate, and a tool's
        # answer needs its call.
        turns = [index for index, message in enumerate(messages) if message.role == "user"]
        if len(turns) < 2:
            return self._end_of(request, self._written(request, patient))

        def without(count: int) -> list[int]:
            kept = messages[: turns[0]] + messages[turns[count] :]
            chat = self._chat(request, _with_system(kept, request.system_prompt), patient)
            return self._end_of(request, chat)

        most = len(turns) - 1
        fewest = bisect_left(range(1, most), True, key=lambda count: fits(without(count))) + 1
        return without(fewest)


def _plain_text(request: GenerateTextRequest) -> str:
    if not request.prompt or not isinstance(request.prompt, str):
        raise EmptyPrompt
    assert isinstance(request.prompt, str), "token ids have no text to be added to"
    if request.tools:
        raise InvalidChat("tools need messages: send messages instead of a prompt")
    if not request.system_prompt:
        return request.prompt
    return f"{request.system_prompt}\n\n{request.prompt}"


def _with_system(messages: tuple[ChatMessage, ...], system: str | None) -> tuple[ChatMessage, ...]:
    """The chat with the system prompt first, joined with the chat's own system message if it has one."""
    if not any(message.text or message.thoughts or message.tool_calls for message in messages):
        raise EmptyPrompt
    if not system:
        return messages
    if messages[0].role in ("system", "developer"):
        system, messages = f"{system}\n\n{messages[0].text}", messages[1:]
    return (ChatMessage(role="system", content=system), *messages)
