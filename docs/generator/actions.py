"""The reference of the actions: request, reply, signals and errors of each."""

from __future__ import annotations

import inspect

from generator import causes
from generator.markdown import code, prose
from generator.schemas import Shape, fields_table, objects, shape_of
from suite.messages import signals
from suite.messages.actions.base import ErrorReply, Reply
from suite.messages.asyncapi import SIGNALS
from suite.messages.jsonschema import ActionTypes, action_types

_INTRODUCTION = """\
# Actions

An action is a NATS request to `suite.action.<action>` with a JSON object as its body. The reply is a JSON
object with `"status": "success"` and the fields of that action, or `"status": "error"` with a `code` and a
`message` ([all errors](errors.md)). Field names have the units: `_ms`, `_bytes`, `_tokens`. Unknown fields
are ignored and named in `warnings`. The same as JSON Schema is in `schemas/actions`, and as AsyncAPI in
`schemas/asyncapi.json`.

Some actions have a field `stream`. With `"stream": true` they first send [signals](#signals), which have a
`kind`; then the reply, which has a `status`; then one empty message.
"""


def page() -> str:
    """The page as Markdown. Raises UnplacedError."""
    causes.check()
    shapes = {action.name: (shape_of(action.request), shape_of(action.reply)) for action in action_types()}
    sections = [_action(action, *shapes[action.name]) for action in action_types()]
    parts = {name: part for pair in shapes.values() for shape in pair for name, part in shape.parts.items()}
    return "\n".join(
        [
            _INTRODUCTION,
            *sections,
            _signals(parts),
            _error_reply(),
            objects(parts, "The objects that requests and replies contain."),
        ]
    )


def _action(action: ActionTypes, request: Shape, reply: Shape) -> str:
    lines = [f"## {action.name}\n", f"{request.description}\n", "**Request**\n"]
    lines.append(fields_table(request.fields) if request.fields else "It has no fields: send `{}`.\n")
    own = tuple(field for field in reply.fields if field.name not in Reply.__struct_fields__)
    lines += ["**Reply**\n", f"{reply.description}\n", fields_table(own) if own else ""]
    if sent := SIGNALS.get(action.name):
        names = ", ".join(f"[{_tag(kind)}](#signals)" for kind in sent)
        lines.append(f'**Signals** with `"stream": true`: {names}\n')
    return "\n".join([*lines, _errors(action.name)])


def _errors(action: str) -> str:
    own = [f"[{name}](errors.md#{name})" for name in causes.BY_ACTION.get(action, ())]
    return f"**Errors** {', '.join([*own, '[those of any action](#errors-of-any-action)'])}\n"


def _signals(parts: dict[str, Shape]) -> str:
    lines = ["## Signals\n"]
    for kind in signals.Signal.__subclasses__():
        shape = shape_of(kind)
        parts.update(shape.parts)
        fields = tuple(field for field in shape.fields if field.name != "kind")
        lines.append(f"### {_tag(kind)}\n\n{prose(inspect.getdoc(kind))}\n")
        lines.append(fields_table(fields) if fields else "")
    return "\n".join(lines)


def _error_reply() -> str:
    names = ", ".join(f"[{name}](errors.md#{name})" for name in causes.ANY_ACTION)
    shape = shape_of(ErrorReply)
    return (
        f"## Errors of any action\n\nAny action may answer with {names}. The reply then has these fields:\n\n"
        f"{fields_table(shape.fields)}"
    )


def _tag(kind: type[signals.Signal]) -> str:
    return code(str(kind.__struct_config__.tag)).strip("`")
