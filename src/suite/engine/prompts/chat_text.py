"""Writes a chat as the text of a prompt, with the model's chat template."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from suite.engine.prompts.adaptation import adaptations, missing, with_tools_as_text
from suite.engine.prompts.call_form import CallForm, call_form
from suite.engine.prompts.markers import Broken, Markers, unmarked
from suite.engine.prompts.placed_pictures import Pictures
from suite.engine.prompts.rendering import (
    CPU_SECONDS,
    PATIENT_NICE,
    QUICK_SECONDS,
    ChatTooLong,
    Rendered,
    Renderer,
    TakesNoTools,
)
from suite.engine.reasoning import Reasoning, ReasoningFormat, format_of, marker_tokens
from suite.engine.template_text import template_text
from suite.engine.vocabulary import Vocabulary
from suite.errors import InvalidChat, InvalidRequest, NoChatTemplate
from suite.identity import NewId, Now
from suite.messages.actions.chat import ChatMessage, SentToolCall, Tool

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""The fields of a message in which templates look for what the assistant thought."""


class ChatText(NamedTuple):
    """A chat as the text of a prompt."""

    text: str
    mark: str | None = None
    """What breaks the markers in the messages, so that only the template's own are whole; None: nothing."""
    warnings: tuple[str, ...] = ()
    thinks: bool = False
    """Whether the text ends within the reasoning of the assistant."""
    pictures: Pictures = Pictures()
    """Those that the text has marks for."""

    @property
    def unmarked(self) -> str:
        """The text as the template would have written it."""
        return unmarked(self.text, self.mark)


class Wishes(NamedTuple):
    """What a request says about its chat, besides the messages."""

    tools: tuple[Tool, ...] = ()
    variables: Mapping[str, Any] = {}
    continues_answer: bool = False
    """Whether the last message is the beginning of the answer."""


class ChatWriter:
    """Writes the chats of one model. Any number of threads may use it at once."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        now: Now,
        new_id: NewId,
        chat_template: str | None,
        *,
        confined: bool = False,
        cpu_seconds: float = CPU_SECONDS,
    ) -> None:
        """`chat_template` replaces the model's own: the text of a template, or the path of a file.

        `confined`: whether templates are rendered in processes without rights (`suite.confinement`). A chat
        may take `cpu_seconds` of CPU time.
        """
        self._vocabulary = vocabulary
        self._now = now
        self._new_id = new_id
        self._configured = chat_template
        self._confined = confined
        self._cpu_seconds = cpu_seconds
        self._renderers: dict[bool, Renderer] = {}
        """The patient one, and the one for quick chats."""
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """Do before the first chat what takes longer than that. Raises the errors of `write`."""
        self.reasoning  # noqa: B018 - it is kept
        if self._has_template:
            self._rendering(patient=False).start()
            self._markers  # noqa: B018

    def close(self) -> None:
        """End the template's processes."""
        for renderer in self._renderers.values():
            renderer.close()

    @cached_property
    def reasoning(self) -> ReasoningFormat | None:
        """How the model's reasoning is told apart from its answer; None: it has no markers for it."""
        vocabulary = self._vocabulary
        source = self._source if self._has_template else ""
        return format_of(source, {**vocabulary.control_tokens, **vocabulary.added_tokens}.keys())

    def reasoning_of(self, chat: ChatText) -> Reasoning | None:
        """How the reasoning of the answer to a chat is told apart."""
        if self.reasoning is None:
            return None
        return Reasoning(form=self.reasoning, opened=chat.thinks, tokens=self._marker_tokens)

    @cached_property
    def call_form(self) -> CallForm:
        """How the model writes calls of tools. Raises NoChatTemplate or InvalidConfiguration."""
        return call_form(self._source, self._vocabulary.control_tokens.keys())

    def write(self, messages: Sequence[ChatMessage], wishes: Wishes, *, patient: bool) -> ChatText:
        """Write a chat, up to where the assistant's answer begins or goes on.

        Raises NoChatTemplate, InvalidChat, InvalidRequest, or InvalidConfiguration for a configured template
        that cannot be read; and SlowChat for a chat that takes its template long, unless told to be
        `patient`.
        """
        chat = self._written(messages, wishes, patient)
        return chat._replace(pictures=Pictures.of(messages))

    def _written(self, messages: Sequence[ChatMessage], wishes: Wishes, patient: bool) -> ChatText:
        if not wishes.continues_answer:
            return self._to_answer(messages, wishes, patient)
        *before, last = messages
        if last.role != "assistant":
            raise InvalidRequest("continue_final_message: the last message is not an assistant's")
        if last.thoughts and self.reasoning is not None:
            return self._after_thoughts(before, last, self.reasoning, wishes, patient)
        if last.text:
            return self._within_answer(messages, wishes, patient)
        return self._to_answer(before, wishes, patient)

    def tokens(self, chat: ChatText, *, begins: bool) -> list[int]:
        """The tokens of a chat: only the template's own markers are control tokens."""

        def tokenize(text: str, begins: bool) -> list[int]:
            return self._markers.tokens(text, chat.mark, begins=begins)

        return chat.pictures.tokens(chat.text, tokenize, begins=begins)

    # --- where the answer begins ----------------------------------------------------------------------------

    def _to_answer(self, messages: Sequence[ChatMessage], wishes: Wishes, patient: bool) -> ChatText:
        chat = self._rendered(self._broken(map(self._message, messages), wishes), patient)
        return chat._replace(thinks=self.reasoning is not None and self.reasoning.opens(chat.text))

    def _within_answer(self, messages: Sequence[ChatMessage], wishes: Wishes, patient: bool) -> ChatText:
        """The chat up to the end of its last message, whatever the template puts after it."""
        *before, last = messages
        end = self._new_id()
        ended = msgspec.structs.replace(last, content=last.text + end, tool_calls=None)
        broken = self._broken(map(self._message, [*before, ended]), wishes)
        chat = self._rendered(broken, patient, opens_answer=False)
        text, found, _ = chat.text.rpartition(end)
        if not found:
            raise InvalidChat("the chat template cannot go on with the last message: send one of the user")
        chat = chat._replace(text=text)
        return chat._replace(thinks=self._is_thinking(chat.unmarked, last.text))

    def _is_thinking(self, text: str, said: str) -> bool:
        form = self.reasoning
        if form is None:
            return False
        begins_open = form.opens(text.removesuffix(said)) and form.end not in said
        return form.is_open_in(said) or begins_open

    def _after_thoughts(
        self,
        before: Sequence[ChatMessage],
        last: ChatMessage,
        form: ReasoningFormat,
        wishes: Wishes,
        patient: bool,
    ) -> ChatText:
        """The chat up to where an assistant goes on that has thought already, and perhaps begun to answer."""
        said = {"role": last.role, "content": last.text, "reasoning_content": last.thoughts}
        broken = self._broken([*map(self._message, before), said], wishes)
        *messages, said = broken.messages
        chat = self._rendered(broken._replace(messages=messages), patient)
        text = (
            chat.text if form.opens(chat.text) else f"{form.without_empty(chat.text)}{form.start.rstrip()}\n"
        )
        answer = f"\n{form.end}\n\n{said['content']}" if last.text else ""
        return chat._replace(text=f"{text}{said['reasoning_content']}{answer}", thinks=not last.text)

    # --- the template ---------------------------------------------------------------------------------------

    def _broken(self, messages: Iterable[dict[str, Any]], wishes: Wishes) -> Broken:
        return self._markers.broken(list(messages), list(map(_tool, wishes.tools)), wishes.variables)

    def _rendered(self, chat: Broken, patient: bool, *, opens_answer: bool = True) -> ChatText:
        rendered, warnings = self._with_tools(chat, patient, opens_answer)
        warnings += tuple(
            f"field 'chat_template_kwargs.{name}' ignored: the model's chat template does not use it"
            for name in rendered.unused
        )
        return ChatText(self._without_bos(rendered.text), chat.mark, warnings)

    def _with_tools(
        self, chat: Broken, patient: bool, opens_answer: bool
    ) -> tuple[Rendered, tuple[str, ...]]:
        """Render a chat, with its tools as text where the template has no place for them."""
        try:
            return self._adapted(chat, patient, opens_answer)
        except TakesNoTools:
            told = with_tools_as_text(chat.messages, chat.tools)
            chat = chat._replace(messages=told.messages, tools=[])
            rendered, warnings = self._adapted(chat, patient, opens_answer)
            return rendered, (*told.warnings, *warnings)

    def _adapted(self, chat: Broken, patient: bool, opens_answer: bool) -> tuple[Rendered, tuple[str, ...]]:
        """Render a chat in the first form of which nothing is missing, else as it is."""
        renderer = self._rendering(patient=patient)

        def render(messages: Sequence[dict[str, Any]]) -> Rendered:
            return renderer.render(messages, chat.tools, variables=chat.variables, opens_answer=opens_answer)

        refusal: InvalidChat | None = None
        rendered: Rendered | None = None
        try:
            rendered = render(chat.messages)
        except (ChatTooLong, TakesNoTools):
            raise
        except InvalidChat as error:
            refusal = error
        lost = [] if rendered is None else missing(chat.messages, rendered.text)
        if rendered is not None and not lost:
            return rendered, ()
        for other in adaptations(chat.messages):
            with suppress(InvalidChat):  # the first refusal is the one to tell
                adapted = render(other.messages)
                if not missing(other.messages, adapted.text):
                    return adapted, other.warnings
        if refusal is not None:
            raise refusal
        assert rendered is not None
        return rendered, tuple(f"{part} is not in the prompt: the chat template drops it" for part in lost)

    def _without_bos(self, text: str) -> str:
        """The text without the token that the tokenizer adds itself, and that a template may write too."""
        vocabulary = self._vocabulary
        return text.removeprefix(vocabulary.bos) if vocabulary.adds_bos and vocabulary.bos else text

    def _message(self, message: ChatMessage) -> dict[str, Any]:
        """A message as templates expect it: content is always text, and absent fields are left out."""
        fields: dict[str, Any] = {"role": message.role, "content": message.text}
        if message.tool_calls:
            fields["tool_calls"] = [_call(call) for call in message.tool_calls]
        if message.tool_call_id is not None:
            fields["tool_call_id"] = message.tool_call_id
        if message.name is not None:
            fields["name"] = message.name
        if message.thoughts:
            fields.update(dict.fromkeys(self._thought_fields, message.thoughts))
        return fields

    # --- what the model brings ------------------------------------------------------------------------------

    @cached_property
    def _markers(self) -> Markers:
        names = () if self.reasoning is None else self.reasoning.names
        return Markers(self._vocabulary, self._source, names, self.call_form.text)

    @cached_property
    def _marker_tokens(self) -> Mapping[int, bytes]:
        vocabulary = self._vocabulary
        named = {**vocabulary.control_tokens, **vocabulary.added_tokens}
        return {} if self.reasoning is None else marker_tokens(self.reasoning, named)

    @cached_property
    def _thought_fields(self) -> tuple[str, ...]:
        return tuple(name for name in _THOUGHTS if re.search(rf"\.{name}\b|['\"]{name}['\"]", self._source))

    @property
    def _has_template(self) -> bool:
        return self._configured is not None or self._vocabulary.chat_template is not None

    @cached_property
    def _source(self) -> str:
        return "".join(filter(None, self._sources))

    @cached_property
    def _sources(self) -> tuple[str, str | None]:
        """The template, and a separate one for chats with tools if the file has one."""
        source, tool_source = self._vocabulary.chat_template, self._vocabulary.tool_template
        if self._configured is not None:
            source, tool_source = template_text(self._configured), None
        if source is None:
            raise NoChatTemplate
        return source, tool_source

    def _rendering(self, *, patient: bool) -> Renderer:
        with self._lock:  # the warm-up and the first chat may come together
            if patient not in self._renderers:
                self._renderers[patient] = self._new_renderer(patient)
            return self._renderers[patient]

    def _new_renderer(self, patient: bool) -> Renderer:
        source, tool_source = self._sources
        return Renderer(
            source,
            tool_source=tool_source,
            bos=self._vocabulary.bos,
            eos=self._vocabulary.eos,
            now=self._now,
            cpu_seconds=self._cpu_seconds,
            quick_seconds=None if patient else QUICK_SECONDS,
            nice=PATIENT_NICE if patient else 0,
            confined=self._confined,
        )


def _call(call: SentToolCall) -> dict[str, Any]:
    """A call with its arguments as an object, which templates turn into JSON themselves."""
    arguments: object = call.function.arguments
    if isinstance(arguments, str):
        with suppress(msgspec.DecodeError, RecursionError):  # what is no JSON goes as the model wrote it
            arguments = msgspec.json.decode(arguments)
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": call.type or "function", "function": function}


def _tool(tool: Tool) -> dict[str, Any]:
    function = {
        "name": tool.function.name,
        "description": tool.function.description,
        "parameters": tool.function.parameters,
    }
    return {
        "type": tool.type or "function",
        "function": {name: value for name, value in function.items() if value is not None},
    }
