"""Chat templates as model files carry them: Jinja, in the dialect of Hugging Face's transformers.

The template comes with the file, so it runs in Jinja's immutable sandbox and reaches only the messages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from suite.errors import InvalidChat
from suite.identity import Now
from suite.messages.actions import ChatMessage


class ChatTemplate:
    """One model's template, compiled. Raises InvalidChat if it is not valid."""

    def __init__(self, source: str, *, bos: str, eos: str, now: Now) -> None:
        self._now = now
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = self._strftime_now
        environment.globals["bos_token"] = bos
        environment.globals["eos_token"] = eos
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # also SyntaxError and RecursionError, from the Python that Jinja makes
            raise InvalidChat(f"the model's chat template is not valid ({error}): send a prompt") from None

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The text of the chat up to where the assistant's answer begins.

        Raises InvalidChat with the template's own words when it refuses the messages.
        """
        try:
            return self._template.render(
                messages=[{"role": message.role, "content": message.content} for message in messages],
                add_generation_prompt=True,
            )
        except Exception as error:  # a template can raise anything that an expression can
            raise InvalidChat(f"the model's chat template refused these messages: {error}") from None

    def _strftime_now(self, form: str) -> str:
        return self._now().astimezone().strftime(form)


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
