from __future__ import annotations

from datetime import UTC, datetime

import pytest

from suite.engine.chat import ChatTemplate
from suite.errors import InvalidChat
from suite.messages.actions import ChatMessage

HELLO = (ChatMessage(role="user", content="hello <b>"),)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos="<s>", eos="</s>", now=lambda: datetime(2026, 5, 4, tzinfo=UTC))


def test_a_template_sees_messages_special_tokens_and_the_generation_prompt() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    assert template(source).render(HELLO) == "<s>user: hello <b></s>assistant:"


def test_blocks_are_trimmed_and_loops_can_be_left_as_in_transformers() -> None:
    source = (
        "{% for m in messages %}\n    {% if loop.index > 1 %}{% break %}{% endif %}\n"
        "{{ m.content }}\n{% endfor %}"
    )
    assert template(source).render(HELLO * 3) == "hello <b>\n"


def test_json_in_a_template_is_not_escaped_for_html() -> None:
    assert template("{{ messages | tojson }}").render(HELLO) == '[{"role": "user", "content": "hello <b>"}]'


def test_the_time_in_a_template_is_the_time_that_is_passed_in() -> None:
    assert template("{{ strftime_now('%Y') }}").render(HELLO) == "2026"


def test_the_refusal_of_a_template_has_its_own_words() -> None:
    with pytest.raises(InvalidChat, match="System role not supported"):
        template("{{ raise_exception('System role not supported') }}").render(HELLO)


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
        template(source).render(HELLO)


def test_a_template_that_is_not_valid_is_refused() -> None:
    with pytest.raises(InvalidChat, match="not valid"):
        template("{% for %}")
