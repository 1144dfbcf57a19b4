"""The grammar of tool calls, in the form that the model's template teaches it, with arguments by schemas.

Where the model is free to call or to answer, the grammar sleeps until it begins a call: a `Trigger` says how
a call begins, and by which rule it then goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from suite.engine.grammar.call_source import CallableTool, CallSource
from suite.engine.prompts.call_form import PLAIN, CallForm
from suite.engine.prompts.tool_calls import MAX_CALLS
from suite.engine.schema.json_schema import ReadSchema, not_supported, read_schema
from suite.engine.schema.literals import quoted
from suite.engine.schema.rules import Rules
from suite.errors import InvalidSchema

_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_ANY_ARGUMENTS: dict[str, Any] = {"type": "object"}


class Trigger(NamedTuple):
    """How a call begins."""

    pattern: str
    """A regular expression of what has been said up to there."""
    is_start: bool
    """Whether the answer has to begin with it."""
    root: str
    """The rule of what follows."""


class CallGrammar(NamedTuple):
    """A grammar of calls."""

    grammar: str
    warnings: tuple[str, ...]
    triggers: tuple[Trigger, ...]
    """What wakes it; none: it is followed from the beginning."""


def call_grammar(source: CallSource) -> CallGrammar:
    """Make the grammar of calls. Raises InvalidSchema or SchemaNotSupported, which name the tool."""
    read = [_arguments(tool, source) for tool in source.tools]
    answer = [] if source.answer is None else [_answer(source.answer, strict=source.is_answer_strict)]
    known = [schema for schema, _ in (*read, *answer)]
    rules = Rules({name: form for schema in known for name, form in schema.definitions.items()})
    form = source.form if all(map(source.form.can_name, (tool.name for tool in source.tools))) else PLAIN
    names = [form.spelled(tool.name) for tool in source.tools]
    arguments = [rules.rule(schema.form) for schema, _ in read]
    roots = _roots(form, names, arguments, is_single=source.is_single)
    if answer:
        roots["root"] += f" | {rules.rule(answer[0][0].form)}"
    return CallGrammar(
        rules.written(**roots),
        tuple(warning for _, warnings in (*read, *answer) for warning in warnings),
        tuple(_triggers(form, names)) if source.is_lazy else (),
    )


def _roots(form: CallForm, names: list[str], arguments: list[str], *, is_single: bool) -> dict[str, str]:
    """The rules where an answer can begin, or go on after a trigger."""
    begin = form.begin + form.before
    after, more = _text(form.after), f"({_text(form.separator + form.before)} call)"
    calls = (
        f"{_text(name + form.between)} {rule} {after}" for name, rule in zip(names, arguments, strict=True)
    )
    further = f"{'' if is_single else f'{more}{{0,{MAX_CALLS - 1}}}'} {_text(form.end)}"
    return {
        "root": f"{_text(begin)} call further",
        "call": " | ".join(calls),
        "further": further,
        "after-marker": f"{_text(begin.removeprefix(form.marker or ''))} call further",
        **{f"after-name{number}": f"space {rule} {after} further" for number, rule in enumerate(arguments)},
    }


def _triggers(form: CallForm, names: list[str]) -> Iterator[Trigger]:
    if form.marker is not None:
        yield Trigger(re.escape(form.marker), False, "after-marker")
        return
    for number, name in enumerate(names):
        yield Trigger(
            r'\s*(?:<\|python_tag\|>\s*)?\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"'
            + re.escape(name)
            + r'"\s*,\s*"(?:arguments|parameters)"\s*:',
            True,
            f"after-name{number}",
        )


def _arguments(tool: CallableTool, source: CallSource) -> tuple[ReadSchema, list[str]]:
    """The schema of a tool's arguments, and the warnings about it."""
    try:
        read = read_schema(_of_object(tool.parameters))
    except InvalidSchema as error:
        why = f"tool {tool.name!r}: {error.message}"
        if tool.strict or source.is_named:
            raise InvalidSchema(why) from None
        return read_schema(_ANY_ARGUMENTS), [f"{why}; its arguments may be any object"]
    if tool.strict and read.warnings:
        raise not_supported(f"tool {tool.name!r}: strict", read.warnings)
    # A model that is free to call or not was never promised more than the beginning of its calls.
    told = () if source.is_lazy else read.warnings
    return read, [f"tool {tool.name!r}: {warning}" for warning in told]


def _of_object(parameters: dict[str, Any] | None) -> dict[str, Any]:
    if parameters is None:
        return _NO_ARGUMENTS
    named = parameters.get("type", "object")
    if named != "object" and not (isinstance(named, list) and "object" in named):
        raise InvalidSchema(f"/type: the arguments of a function are an object, not {json.dumps(named)[:50]}")
    return {**parameters, "type": "object"}


def _answer(schema: dict[str, Any], *, strict: bool) -> tuple[ReadSchema, list[str]]:
    read = read_schema(schema)
    if strict and read.warnings:
        raise not_supported("strict", read.warnings)
    return read, list(read.warnings)


def _text(text: str) -> str:
    """A text of a form as a literal of GBNF."""
    return quoted(text).replace("\n", "\\n")
