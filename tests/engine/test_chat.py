from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from suite.engine.prompts.chat import ChatTemplate
from suite.engine.prompts.rendering import Renderer
from suite.errors import InvalidChat

NOW = datetime(2026, 5, 4, tzinfo=UTC)
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello <b>"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object"}},
}
CALLED: list[dict[str, Any]] = [
    *HELLO,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
        ],
    },
    {"role": "tool", "content": "2", "tool_call_id": "abcdefghi"},
]
LLAMA_TOOLS = """\
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if tools is not none %}tools:{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}
{{- messages[0].content }}"""
SLOW = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
LARGE = "{% set ns = namespace(x='x') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"


def rendered(
    source: str, messages: list[dict[str, Any]] = HELLO, tools: Sequence[dict[str, Any]] = ()
) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>").render(messages, tools, now=NOW)


def test_a_template_sees_messages_special_tokens_and_the_generation_prompt() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    assert rendered(source) == "<s>user: hello <b></s>assistant:"


def test_blocks_are_trimmed_and_loops_can_be_left_as_in_transformers() -> None:
    source = (
        "{% for m in messages %}\n    {% if loop.index > 1 %}{% break %}{% endif %}\n"
        "{{ m.content }}\n{% endfor %}"
    )
    assert rendered(source, HELLO * 3) == "hello <b>\n"


def test_what_a_template_marks_for_training_is_text_as_any() -> None:
    source = (
        "{%- for m in messages -%}\n{% generation %}{% set x = m.content %}{{ x }}</s>{% endgeneration %}\n"
        "{{- x is defined }}{% endfor %}"
    )
    assert rendered(source) == "hello <b></s>False"


def test_json_in_a_template_is_not_escaped_for_html() -> None:
    assert rendered("{{ messages | tojson }}") == '[{"role": "user", "content": "hello <b>"}]'


def test_the_time_in_a_template_is_the_time_that_is_passed_in() -> None:
    assert rendered("{{ strftime_now('%Y') }}") == "2026"


def test_the_refusal_of_a_template_has_its_own_words() -> None:
    with pytest.raises(InvalidChat, match="System role not supported"):
        rendered("{{ raise_exception('System role not supported') }}", CALLED)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ undefined_thing.attribute }}",
        "{{ 1 / 0 }}",
        "{% for i in range(1000000) %}x{% endfor %}",
    ],
)
def test_a_template_reaches_nothing_outside(source: str) -> None:
    with pytest.raises(InvalidChat):
        rendered(source)


def test_a_template_that_is_not_valid_is_refused() -> None:
    with pytest.raises(InvalidChat, match="not valid"):
        rendered("{% for %}")


@pytest.mark.parametrize(
    ("source", "takes_tools"),
    [
        ("{% if tools %}{{ tools | tojson }}{% endif %}", True),
        ("{% macro list() %}{{ tools | tojson }}{% endmacro %}{{ list() }}", True),
        (LLAMA_TOOLS, True),
        ("{{ messages[0].content }}", False),
        ("{# tools #}{{ 'tools' }}{{ messages[0].tools }}", False),
    ],
)
def test_whether_a_template_takes_tools_shows_in_it(source: str, takes_tools: bool) -> None:
    assert ChatTemplate(source, bos="", eos="").takes_tools is takes_tools


def test_tools_reach_the_template_and_without_any_there_is_none() -> None:
    assert rendered(LLAMA_TOOLS, HELLO, [WEATHER]).startswith(
        'tools:{"type": "function", "function": {"name"'
    )
    assert rendered(LLAMA_TOOLS) == "hello <b>"


def test_arguments_of_calls_are_objects_or_text_as_the_template_wants_them() -> None:
    calls = "{% for m in messages %}{% for c in m.tool_calls %}{{ {} }}{% endfor %}{% endfor %}"
    as_object = calls.replace("{}", "c.function.arguments | tojson")
    as_text = calls.replace("{}", "'args: ' + c.function.arguments")
    assert rendered(as_object, CALLED) == '{"a": 1}'
    assert rendered(as_text, CALLED) == 'args: {"a": 1}'


# --- in its process ---------------------------------------------------------------------------------------


@pytest.fixture
def renderers() -> Iterator[list[Renderer]]:
    made: list[Renderer] = []
    yield made
    for renderer in made:
        renderer.close()


def renderer_of(renderers: list[Renderer], source: str, **options: Any) -> Renderer:
    renderers.append(Renderer(source, bos="<s>", eos="</s>", now=lambda: NOW, **options))
    return renderers[-1]


def test_a_chat_is_rendered_in_another_process(renderers: list[Renderer]) -> None:
    renderer = renderer_of(renderers, "{{ bos_token }}{{ messages[0].content }}{{ '\\ud800' }}")
    renderer.start()
    assert renderer.render([{"role": "user", "content": "é😀"}]).text == "<s>é😀?"
    assert (
        renderer.render([{"role": "user", "content": "x" * 1_000_000}]).text == "<s>" + "x" * 1_000_000 + "?"
    )
    renderer.close()
    assert renderer.render(HELLO).text == "<s>hello <b>?"


SLOW_FOR_X = "{% if messages[0].content == 'x' %}" + SLOW + "{% endif %}{{ messages[0].content }}"
X: list[dict[str, Any]] = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize("others_came_first", [True, False])
def test_a_chat_that_takes_the_template_too_long_is_refused_and_others_are_not(
    renderers: list[Renderer], others_came_first: bool
) -> None:
    renderer = renderer_of(renderers, SLOW_FOR_X, cpu_seconds=0.2)
    if others_came_first:
        assert renderer.render(HELLO).text == "hello <b>"
    for _ in range(2):
        with pytest.raises(InvalidChat, match=r"more than 0\.2 s for this chat"):
            renderer.render(X)
    assert renderer.render(HELLO).text == "hello <b>"


@pytest.mark.parametrize("source", [SLOW, "{{ 7 ** (10 ** 8) }}"], ids=["to render", "to compile"])
def test_a_template_that_ends_with_no_chat_is_not_tried_again(renderers: list[Renderer], source: str) -> None:
    renderer = renderer_of(renderers, source, cpu_seconds=0.2)
    for _ in range(2):
        with pytest.raises(InvalidChat, match="does not come to an end"):
            renderer.render(X)
    assert renderer._idle is None


def test_nobody_waits_for_a_chat_that_takes_long(renderers: list[Renderer]) -> None:
    renderer = renderer_of(renderers, SLOW_FOR_X)
    renderer.start()
    refusals: list[str] = []

    def ask() -> None:
        try:
            renderer.render(X)
        except InvalidChat as error:
            refusals.append(error.message)

    slow = threading.Thread(target=ask)
    slow.start()
    for _ in range(3):
        assert renderer.render(HELLO).text == "hello <b>"
    assert not refusals
    slow.join()
    assert len(refusals) == 1


@pytest.mark.parametrize(
    "source", [LARGE, "{{ 'x' * 10**10 }}", "{{ [messages[0].content * 1000] * 1000000 }}"]
)
def test_a_template_cannot_fill_the_memory(renderers: list[Renderer], source: str) -> None:
    renderer = renderer_of(renderers, source, memory_bytes=32 << 20)
    with pytest.raises(InvalidChat, match="32 MiB"):
        renderer.render([{"role": "user", "content": "x" * 10_000}])


def test_what_takes_too_much_for_one_chat_may_do_for_the_next(renderers: list[Renderer]) -> None:
    source = "{{ messages[0].content }}{% if messages[0].content == 'x' %}" + LARGE + "{{ ns.x }}{% endif %}"
    renderer = renderer_of(renderers, source, memory_bytes=32 << 20)
    with pytest.raises(InvalidChat, match="32 MiB"):
        renderer.render([{"role": "user", "content": "x"}])
    assert renderer.render(HELLO).text == "hello <b>"


def test_a_text_has_a_limit(renderers: list[Renderer]) -> None:
    renderer = renderer_of(renderers, "{% for i in range(100) %}{{ messages[0].content }}{% endfor %}")
    with pytest.raises(InvalidChat, match="4 MiB"):
        renderer.render([{"role": "user", "content": "x" * 100_000}])


def test_a_process_that_died_is_started_again(renderers: list[Renderer]) -> None:
    renderer = renderer_of(renderers, "{{ messages[0].content }}")
    assert renderer.render(HELLO)
    assert renderer._idle is not None
    process = renderer._idle._process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert renderer.render(HELLO).text == "hello <b>"


def test_an_invalid_template_is_refused_each_time(renderers: list[Renderer]) -> None:
    renderer = renderer_of(renderers, "{% for %}")
    for _ in range(2):
        with pytest.raises(InvalidChat, match="not valid"):
            renderer.render(HELLO)


def test_tools_go_to_the_template_that_takes_them_or_are_refused(renderers: list[Renderer]) -> None:
    plain, with_tools = "plain", "{{ tools[0].function.name }}"
    assert renderer_of(renderers, plain, tool_source=with_tools).render(HELLO, [WEATHER]).text == "weather"
    assert renderers[-1].render(HELLO).text == "plain"
    with pytest.raises(InvalidChat, match="knows of no tools"):
        renderer_of(renderers, plain).render(HELLO, [WEATHER])
