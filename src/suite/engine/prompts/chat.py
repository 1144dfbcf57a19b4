"""Renders the chat templates of model files: Jinja, in the dialect of Hugging Face's transformers.

A template is a program written by whoever made the model file. It runs in Jinja's immutable sandbox and
reaches only what it is given, but it can loop for ever and fill the memory. So it runs in a process of its
own (`suite.engine.prompts.rendering`); only that process and tests import this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn, TypeAlias

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from suite.errors import InvalidChat

Message: TypeAlias = Mapping[str, Any]
"""A message as a template sees it: role, content, and the tool calls or tool call id if it has any."""


class ChatTemplate:
    """One model's compiled template. Raises InvalidChat if it is not valid."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        self._now: datetime
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
        )
        environment.filters["tojson"] = _to_json
        self._environment = {
            "raise_exception": _refuse,
            "strftime_now": self._strftime_now,
            "bos_token": bos,
            "eos_token": eos,
        }
        environment.globals.update(self._environment)
        try:
            parsed = environment.parse(source)
            self.variables = find_undeclared_variables(parsed)
            """What the template can be given."""
            self._knows_developer = any(each.value == "developer" for each in parsed.find_all(nodes.Const))
            self._template = environment.from_string(source)
        except MemoryError:
            raise
        except Exception as error:  # also SyntaxError and RecursionError, from the Python that Jinja makes
            raise InvalidChat(f"the model's chat template is not valid ({error}): send a prompt") from None

    @property
    def takes_tools(self) -> bool:
        """Whether the template uses the `tools` that it is given."""
        return "tools" in self.variables

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        now: datetime,
        variables: Mapping[str, Any] | None = None,
        opens_answer: bool = True,
    ) -> str:
        """Render the chat as text, up to where the assistant's answer begins if `opens_answer` is set.

        `variables` are more of what the template can be given. A message of the role ``developer`` is one of
        the role ``system`` for a template that does not name it. Raises InvalidChat with the template's
        message when it refuses the chat.
        """
        self._now = now
        given = {
            **(variables or {}),
            **self._environment,
            "documents": None,
            # None where there are none, as transformers gives it: templates ask `tools is not none`.
            "tools": list(tools) or None,
            "add_generation_prompt": opens_answer,
        }
        if not self._knows_developer:
            messages = list(map(_with_known_role, messages))
        try:
            return self._rendered(messages, given)
        except MemoryError:
            raise
        except Exception as error:  # a template can raise anything that an expression can
            refusal = error
        if any(message.get("tool_calls") for message in messages):
            # Most templates want a call's arguments as an object, a few as the text that requests have.
            with suppress(Exception):  # the first refusal is the one to tell
                return self._rendered([_with_arguments_as_text(message) for message in messages], given)
        raise InvalidChat(f"the model's chat template refused these messages: {refusal}") from None

    def _rendered(self, messages: Sequence[Message], given: Mapping[str, Any]) -> str:
        return self._template.render({**given, "messages": list(messages)})

    def _strftime_now(self, form: str) -> str:
        return self._now.strftime(form)


class _GenerationTag(Extension):
    """``{% generation %}`` marks the assistant's text for training; here it has no effect."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the text between the tags, with its own variable scope as in transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _with_known_role(message: Message) -> Message:
    return {**message, "role": "system"} if message["role"] == "developer" else message


def _with_arguments_as_text(message: Message) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    texts = [
        {**call, "function": {**call["function"], "arguments": _text(call["function"]["arguments"])}}
        for call in calls
    ]
    return {**message, "tool_calls": texts}


def _text(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else _to_json(arguments)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of Jinja's own filter; the parameters are those that templates pass."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
