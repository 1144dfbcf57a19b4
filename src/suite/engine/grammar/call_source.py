"""What a grammar of tool calls is made from, as a request says it."""

from __future__ import annotations

from typing import Any

import msgspec

from suite.engine.prompts.call_form import CallForm
from suite.errors import InvalidRequest
from suite.messages.actions.chat import Function, NamedToolChoice
from suite.messages.actions.generation import GenerateTextRequest


class CallableTool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that may be called."""

    name: str
    parameters: dict[str, Any] | None = None
    strict: bool = False
    """Whether a schema that cannot be followed exactly is refused; else there is a warning."""


class CallSource(msgspec.Struct, frozen=True, kw_only=True):
    """The calls that an answer may have."""

    form: CallForm
    tools: tuple[CallableTool, ...]
    is_required: bool
    """Whether there is a call at least; else the model is free until it begins one."""
    is_named: bool = False
    """Whether the request names the function to call."""
    is_single: bool = False
    """Whether there is one call at most."""
    answer: dict[str, Any] | None = None
    """The schema of the answer that may be given instead of calls."""
    is_answer_strict: bool = False

    @property
    def is_lazy(self) -> bool:
        """Whether the grammar sleeps until the model begins a call."""
        return not self.is_required and self.answer is None

    @property
    def is_optional(self) -> bool:
        """Whether the model goes on freely where the grammar cannot be followed."""
        return self.is_lazy and not any(tool.strict for tool in self.tools)


def offered_tools(request: GenerateTextRequest) -> tuple[Function, ...]:
    """The functions that the answer may call. Raises InvalidRequest for a choice that is none of them."""
    functions = tuple(tool.function for tool in request.tools)
    choice = request.tool_choice
    if isinstance(choice, NamedToolChoice):
        chosen = [each for each in functions if each.name == choice.function.name]
        if not chosen:
            raise InvalidRequest(f"tool_choice: there is no tool {choice.function.name!r} among the tools")
        return tuple(chosen[:1])
    if choice == "required" and not functions:
        raise InvalidRequest("tool_choice: required needs tools: send some")
    return () if choice == "none" else functions


def has_json_answer(request: GenerateTextRequest) -> bool:
    """Whether the answer is JSON that the request describes, unless it is a call."""
    form = request.response_format
    is_described = request.json_schema is not None or (form is not None and form.type != "text")
    return is_described and request.tool_choice == "auto"


def call_source(
    request: GenerateTextRequest,
    form: CallForm,
    answer: dict[str, Any] | None = None,
    *,
    strict: bool = False,
) -> CallSource:
    """The calls that a request with tools asks for; `answer` is the schema of an answer without calls."""
    choice = request.tool_choice
    is_named = isinstance(choice, NamedToolChoice)
    is_required = is_named or choice == "required"
    return CallSource(
        form=form,
        tools=tuple(
            CallableTool(name=each.name, parameters=each.parameters, strict=bool(each.strict))
            for each in offered_tools(request)
        ),
        is_required=is_required,
        is_named=is_named,
        is_single=is_named or not request.parallel_tool_calls,
        answer=None if is_required else answer,
        is_answer_strict=strict,
    )
