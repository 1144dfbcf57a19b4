"""Chat templates of model files, mutated, with chats to write by them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import anyio.to_thread
import msgspec

from suite.engine.prompts.chat_text import ChatText, ChatWriter, Wishes
from suite.engine.prompts.rendering import SlowChat
from suite.engine.vocabulary import Vocabulary
from suite.errors import SuiteError
from suite.identity import new_id, utc_now
from suite.messages.actions.chat import ChatMessage, Tool
from support.bare import bare
from support.fuzzing.mutation import junk, mutated_text, text
from support.fuzzing.run import Target
from support.models import CHAT_TEMPLATE, tiny_model

SECONDS: Final = 60.0
CPU_SECONDS: Final = 1.0
"""What a template has for a chat, which is tried in several forms. A node gives it five times as much."""
_REFUSALS: Final = ("invalid_chat", "invalid_request", "invalid_configuration", "no_chat_template")

_QWEN: Final = """
{%- if tools %}<|im_start|>system
{%- for tool in tools %}{{ tool | tojson(indent=2) }}
{%- endfor %}<tool_call></tool_call>{%- endif %}
{%- set ns = namespace(multi=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi and message.role == 'user' %}
        {%- set ns.multi = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}
    {%- else %}{%- set content = '' %}{%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- for call in message.tool_calls %}{{ call.function.arguments | tojson }}{%- endfor %}
    {{- content.split('</think>')[-1].lstrip('\\n') }}<|im_end|>
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
    {%- if enable_thinking is defined and not enable_thinking %}<think>\\n\\n</think>\\n\\n{%- endif %}
{%- endif %}
"""
_STRICT: Final = """
{% macro turn(m, deep=3) %}
[{{ m.role }}]{% if deep %}{{ turn(m, deep - 1) }}{% endif %}{{ m.content }}
{% endmacro %}
{% for m in messages %}
    {% if m.role not in ['user', 'assistant'] %}{{ raise_exception('no ' + m.role) }}{% endif %}
    {% generation %}{{ turn(m) }}{% endgeneration %}
    {% if loop.index > 9 %}{% break %}{% endif %}
{% endfor %}
"""
_DATED: Final = """
{% set date = strftime_now('%d %b %Y') %}{{ '%s' % date }}
{{ messages | map(attribute='content') | join('\\n') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{% filter upper %}{{ date }}{% endfilter %}
"""
_PLAIN: Final = """
{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m['content'] | trim }}{{ eos_token }}{% endfor %}
"""
TEMPLATES: Final = (CHAT_TEMPLATE, _PLAIN, _QWEN, _STRICT, _DATED)
_FILTERS: Final = (
    *(
        "tojson(indent=10**9)",
        "tojson(indent=2)",
        "indent(10**8)",
        "center(10**9)",
        "groupby('role')",
        "batch(0)",
        "slice(0)",
    ),
    *(
        "sort",
        "sum",
        "random",
        "pprint",
        "xmlattr",
        "urlize",
        "format(1)",
        "round(10**6)",
        "wordwrap(0)",
        "truncate(-1)",
    ),
    *(
        "map('x')",
        "map(attribute='content')",
        "attr('__class__')",
        "default",
        "first",
        "last",
        "list",
        "int",
        "float(1e9)",
    ),
    *(
        "items",
        "dictsort",
        "replace('', 'x' * 10**6)",
        "string * 10**7",
        "reverse",
        "select",
        "safe",
        "e",
        "forceescape",
    ),
)
_EXPRESSIONS: Final = (
    *(
        "'x' * 10**9",
        "[0] * 10**8",
        "range(10**9)",
        "range(10**5) | list",
        "9 ** 9 ** 9",
        "1 // 0",
        "1 % 0",
        "1e999",
        "-1",
    ),
    *(
        "''.__class__.__mro__[1].__subclasses__()",
        "'{0.__class__}'.format(1)",
        "'%s' % messages",
        "'%d' % 'x'",
        "self",
    ),
    *(
        "cycler()",
        "cycler(1).next()",
        "lipsum(n=10**6)",
        "joiner()()",
        "namespace(a=1).a",
        "loop.cycle(1)",
        "caller()",
    ),
    *(
        "strftime_now('%' * 9999)",
        "strftime_now('\\ud800')",
        "strftime_now(0)",
        "raise_exception(messages)",
        "'\\ud800'",
    ),
    *(
        "messages",
        "messages[0]",
        "messages[-1].content[:5]",
        "messages.append(1)",
        "messages.clear()",
        "messages[99].content",
    ),
    *(
        "tools",
        "tools[0].function.name",
        "dict(a=1)",
        "none",
        "undefined_thing.x.y",
        "x is defined",
        "'\x00'",
        "true and false",
    ),
    *(
        "m.content.split('a')[-1].lstrip()",
        "m.role ~ m.content",
        "messages | length",
        "(" * 60 + "1" + ")" * 60,
        "not " * 300 + "1",
    ),
)
_WORDS: Final = (
    *(
        "{%",
        "%}",
        "{{",
        "}}",
        "{#",
        "#}",
        "{%- raw %}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
    ),
    *(
        "{% for a in range(99999) %}",
        "{% endfor %}",
        "{% endif %}",
        "{% break %}",
        "{% set ns.x = 1 %}",
        "{% block a %}",
    ),
    *("recursive", "| ", "(", ")", "-", "\0", "é", "not ", "loop"),
)
_expression: Final = re.compile(r"(?<=\{\{)(.*?)(?=\}\})", re.DOTALL)


class Chat(NamedTuple):
    """A template, and what it is to write."""

    template: str
    messages: Sequence[Any]
    tools: Sequence[Any]
    variables: dict[str, Any]
    continues_answer: bool


def make_chat(random: Random) -> Chat:
    """A chat with a template that is wrong somewhere, most of the time."""
    template = random.choice(TEMPLATES)
    if random.random() < 0.7:
        template = _expression.sub(lambda found: _other(found[0], random), template)
    else:
        template = mutated_text(template, random, _WORDS)
    roles = ("system", "user", "user", "assistant", "tool", "developer")
    messages = [_message(random.choice(roles), random) for _ in range(random.choice((1, 1, 2, 3, 8)))]
    tools = [_tool(random) for _ in range(random.choice((0, 0, 1, 2)))]
    variables = {text(random): junk(random)} if random.random() < 0.2 else {}
    return Chat(template, messages, tools, variables, random.random() < 0.2)


def _other(expression: str, random: Random) -> str:
    """Another expression in place of this one, now and then."""
    match random.randrange(8):
        case 0:
            return f" {random.choice(_EXPRESSIONS)} "
        case 1:
            return f" ({expression}) | {random.choice(_FILTERS)} "
        case 2:
            return f" ({expression}) ~ ({random.choice(_EXPRESSIONS)}) "
    return expression


def _message(role: str, random: Random) -> dict[str, Any]:
    message: dict[str, Any] = {"role": role, "content": text(random)}
    if role == "assistant" and random.random() < 0.5:
        arguments = random.choice(("{}", "{", '{"a": [1]}', {"a": text(random)}, "[" * 2000))
        message["tool_calls"] = [{"id": "x", "function": {"name": "f", "arguments": arguments}}]
    if role == "assistant" and random.random() < 0.3:
        message["reasoning_content"] = text(random)
    return message


def _tool(random: Random) -> dict[str, Any]:
    return {"type": "function", "function": {"name": random.choice("fgh"), "parameters": {"a": junk(random)}}}


@contextmanager
def templates(directory: Path) -> Iterator[Target[Chat]]:
    """Templates, each in a process of its own, and the tokens of what they write."""
    path = tiny_model(
        directory / "tiny.gguf", control=("<|im_start|>", "<|im_end|>"), added=("<think>", "</think>")
    )
    with bare(path) as model:
        vocabulary = model.vocabulary

        async def check(chat: Chat) -> str:
            return await anyio.to_thread.run_sync(_written, vocabulary, chat)

        yield Target(
            name="templates",
            make=make_chat,
            check=check,
            written=lambda chat: json.dumps(chat._asdict(), indent=1).encode("utf-8", "surrogatepass"),
            seconds=3 * SECONDS,
            at_once=2,
        )


def _written(vocabulary: Vocabulary, chat: Chat) -> str:
    """Write a chat, and say what came of it."""
    messages = msgspec.convert(chat.messages, list[ChatMessage])
    wishes = Wishes(msgspec.convert(chat.tools, tuple[Tool, ...]), chat.variables, chat.continues_answer)
    writer = ChatWriter(vocabulary, utc_now, new_id, chat.template, cpu_seconds=CPU_SECONDS)
    try:
        writer.warm_up()
        written = _with_patience(writer, messages, wishes)
        writer.tokens(written, begins=True)
        written.text.encode()
        return "a text"
    except SuiteError as error:
        assert error.code in _REFUSALS, error
        error.message.encode("utf-8", "surrogatepass")
        return error.code
    finally:
        writer.close()


def _with_patience(writer: ChatWriter, messages: Sequence[ChatMessage], wishes: Wishes) -> ChatText:
    try:
        return writer.write(messages, wishes, patient=False)
    except SlowChat:
        return writer.write(messages, wishes, patient=True)
