"""How a model writes tool calls: the form that its chat template teaches it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection

import msgspec

_PLAIN_NAME = re.compile(r"[A-Za-z_][\w.-]{0,127}", re.ASCII)
"""A name that can stand without quotes."""


class CallForm(msgspec.Struct, frozen=True, kw_only=True):
    """One family's form. The text of calls is `begin`, the calls with `separator` between them, and `end`."""

    before: str
    """What stands before the name of the function."""
    between: str
    """What stands between its name and its arguments."""
    after: str
    begin: str = ""
    separator: str = "\n"
    end: str = ""
    marker: str | None = None
    """What `begin` or `before` begins with, and nothing but a call does; None: calls begin like any JSON."""

    has_hidden_marker: bool = False
    """Whether the marker is a token of its own, which an answer does not show."""

    @property
    def is_told_apart(self) -> bool:
        """Whether the text of an answer shows that it is a call, whatever JSON it might be otherwise."""
        return self.marker is not None and not self.has_hidden_marker

    @property
    def text(self) -> str:
        """All that it writes besides names and arguments."""
        return self.begin + self.before + self.between + self.after + self.separator + self.end

    def can_name(self, name: str) -> bool:
        """Whether a function of this name can be called in this form."""
        return self._is_json or _PLAIN_NAME.fullmatch(name) is not None

    def spelled(self, name: str) -> str:
        """The name of a function, as this form has it."""
        return json.dumps(name, ensure_ascii=False)[1:-1] if self._is_json else name

    @property
    def _is_json(self) -> bool:
        return self.before.endswith('"')


_BEFORE, _ARGUMENTS, _PARAMETERS = '{"name": "', '", "arguments": ', '", "parameters": '

PLAIN = CallForm(before=_BEFORE, between=_ARGUMENTS, after="}")
"""For templates of which the form is not known: the form of OpenAI's API."""


def _list_after(marker: str) -> CallForm:
    return CallForm(
        begin=f"{marker}[",
        before=_BEFORE,
        between=_ARGUMENTS,
        after="}",
        separator=", ",
        end="]",
        marker=marker,
    )


_HERMES = CallForm(
    before=f"<tool_call>\n{_BEFORE}", between=_ARGUMENTS, after="}\n</tool_call>", marker="<tool_call>"
)
_LLAMA = CallForm(before=_BEFORE, between=_PARAMETERS, after="}", separator="; ")
_FORMS: tuple[tuple[tuple[str, ...], CallForm], ...] = (
    (
        ("[TOOL_CALLS]", "[ARGS]"),
        CallForm(before="[TOOL_CALLS]", between="[ARGS]", after="", separator="", marker="[TOOL_CALLS]"),
    ),
    (("[TOOL_CALLS]",), _list_after("[TOOL_CALLS]")),
    (("<|tool_call|>",), _list_after("<|tool_call|>")),
    (("<tool_call>",), _HERMES),
    (
        ("<function=", "</function>"),
        CallForm(before="<function=", between=">", after="</function>", marker="<function="),
    ),
    (("<|python_tag|>", '"parameters": '), _LLAMA),
    (("ipython", '"parameters": '), _LLAMA),
)
"""What a template has, and the form that it then teaches: Mistral's newer and older; Phi and Granite; Hermes
and Qwen; Functionary; Llama 3.1 and 3.2. The first that fits counts."""


def call_form(template: str, tokens: Collection[str]) -> CallForm:
    """The form of a chat template; `tokens` are the names of the tokens that answers do not show."""
    other = PLAIN if "tools" in template else _HERMES  # as `with_tools_as_text` teaches it
    form = next((form for names, form in _FORMS if all(name in template for name in names)), other)
    return msgspec.structs.replace(form, has_hidden_marker=form.marker in tokens)
