from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.engine.prompts.tool_calls import ExtractedToolCalls, extract_tool_calls
from suite.messages.actions.chat import Function

PIECES = [
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", " ", "x", "add"),
    *('{"name":"add"', '"arguments":{"a":"\\u00e4"}', "{", "}", "[", "]", ","),
]


TOOLS = (Function(name="weather", parameters={"type": "object", "required": ["city"]}), Function(name="add"))


def found(text: str) -> tuple[str, list[tuple[str, object]]]:
    calls = extract_tool_calls(text, TOOLS, "g1")
    return calls.text, [(each.function.name, json.loads(each.function.arguments)) for each in calls.calls]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>',
        '<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}',
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Köln\\"}"}</tool_call>',
        '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Köln"}}]',
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Köln"}, "id": "abcdefghi"}]',
        '[{"name": "weather", "arguments": {"city": "Köln"}}]',
        '[TOOL_CALLS]weather[ARGS]{"city": "Köln"}',
        '[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{"city": "Köln"}',
        'weather{"city": "Köln"}',
        '{"name": "weather", "parameters": {"city": "Köln"}}',
        '<|python_tag|>{"name": "weather", "parameters": {"city": "Köln"}}',
        '{"type": "function", "function": {"name": "weather", "parameters": {"city": "Köln"}}}',
        '<function=weather>{"city": "Köln"}</function>',
        '<|tool_call|>[{"name": "weather", "arguments": {"city": "Köln"}}]<|/tool_call|>',
        '<tool_call>{"name": "weather", "city": "Köln"}</tool_call>',
    ],
)
def test_a_call_is_read_in_each_format(text: str) -> None:
    assert found(text) == ("", [("weather", {"city": "Köln"})])


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>\n'
        '<tool_call>{"name": "add", "arguments": {}}</tool_call>',
        '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}, {"name": "add"}]',
        '[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]add[ARGS]{}',
        '{"name": "add", "parameters": {"a": 1}}; {"name": "add", "parameters": {}}',
        '{"name": "add", "parameters": {"a": 1}}\n{"name": "add", "arguments": null}',
        '<tool_call>{"name": "add", "a": 1}</tool_call><tool_call>{"name": "add"}</tool_call>',
        '<function=add>{"a": 1}</function><function=add>{}</function>',
    ],
)
def test_several_calls_are_read_in_their_order(text: str) -> None:
    assert found(text) == ("", [("add", {"a": 1}), ("add", {})])


def test_a_tag_within_an_argument_is_part_of_it() -> None:
    for said in ("</tool_call>", "<tool_call>", '<tool_call>{"name": "add"}</tool_call>', "[TOOL_CALLS]"):
        call = json.dumps({"name": "weather", "arguments": {"city": said}})
        assert found(f"So: <tool_call>{call}</tool_call>!") == ("So: !", [("weather", {"city": said})])
        assert found(f"<tool_call>{call}") == ("", [("weather", {"city": said})])


def test_text_beside_calls_is_kept() -> None:
    call = '{"name": "add", "arguments": {}}'
    assert found(f"I add.\n<tool_call>{call}</tool_call>\nDone.") == ("I add.\n\nDone.", [("add", {})])
    assert found(f"I add. [TOOL_CALLS][{call}]") == ("I add.", [("add", {})])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It rains.",
        " 7 ",
        '{"name": "unknown", "parameters": {}}',
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {}}{"name": "unknown", "arguments": {}}</tool_call>',
        '[TOOL_CALLS][{"name": "add", "arguments": {}}, {"name": "unknown", "arguments": {}}]',
        '<tool_call>{"name": "add", "arguments": {}} I think</tool_call>',
        '{"city": "Köln"}',
        '{"name": "add", "city": "Paris"}',
        '{"name": "add"}',
        '{"name": "weather", "arguments": null}',
        '<tool_call>{"name": "weather"}</tool_call>',
        "<function=unknown>{}</function>",
        '{"name": "weather", "parameters": {"city": "Kö',
        '{"name": "weather", "parameters": ["Köln"]}',
        '{"name": "weather", "parameters": {"degrees": NaN}}',
        '{"name": "weather", "parameters": {"degrees": 1e999}}',
        '{"name": "weather", "parameters": {"city": "\\ud800"}}',
        '{"name": 7, "parameters": {}}',
        'See {"name": "weather", "parameters": {}}',
        '{"name": "weather", "parameters": {}} is what I would call',
        "<tool_call>weather in Köln</tool_call>",
        "[TOOL_CALLS][weather]",
        '<|python_tag|>brave_search.call(query="Köln")',
        "[" * 100_000,
        '{"name": "weather", "arguments": ' + "[" * 100_000,
        '[TOOL_CALLS][{"name": "add", "arguments": {}}, 7]',
        "<tool_call>{}</tool_call>" * 200,
        "".join('{"name": "add", "arguments": {}}' for _ in range(129)),
    ],
)
def test_what_is_no_call_stays_text_as_it_was(text: str) -> None:
    assert extract_tool_calls(text, TOOLS, "g1") == ExtractedToolCalls(text, ())


def test_json_that_was_asked_for_is_no_call() -> None:
    call = '{"name": "add", "arguments": {"a": "<tool_call>{\\"name\\": \\"add\\"}</tool_call>"}}'
    assert extract_tool_calls(call, TOOLS, "g1", may_be_json=False) == ExtractedToolCalls(call, ())
    assert len(extract_tool_calls(call, TOOLS, "g1").calls) == 1
    marked = f"<tool_call>{call}</tool_call>"
    assert len(extract_tool_calls(marked, TOOLS, "g1", may_be_json=False).calls) == 1


def test_of_more_calls_than_may_be_the_first_count() -> None:
    text = '[{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": {"a": 2}}]'
    (call,) = extract_tool_calls(text, TOOLS, "g1", at_most=1).calls
    assert call.function.arguments == '{"a": 1}'


def test_a_block_that_cannot_be_read_stays_beside_one_that_can() -> None:
    bad = "<tool_call>{weather}</tool_call>"
    text = f'{bad}<tool_call>{{"name": "add", "arguments": {{}}}}</tool_call>'
    assert found(text) == (bad, [("add", {})])


def test_ids_are_the_models_own_or_nine_characters_that_follow_from_the_generation() -> None:
    text = '[TOOL_CALLS][{"name": "add", "id": "abc123XYZ"}, {"name": "add"}, {"name": "add"}]'
    own, *made = [call.id for call in extract_tool_calls(text, TOOLS, "g1").calls]
    assert own == "abc123XYZ"
    assert all(len(id) == 9 and id.isalnum() for id in made)
    assert len(set(made)) == 2
    assert made == [call.id for call in extract_tool_calls(text, TOOLS, "g1").calls][1:]
    assert made != [call.id for call in extract_tool_calls(text, TOOLS, "g2").calls][1:]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_no_text_is_too_strange(parts: list[str]) -> None:
    text = "".join(parts)
    calls = extract_tool_calls(text, TOOLS, "g1")
    assert calls.calls or calls.text == text
    for call in calls.calls:
        assert isinstance(json.loads(call.function.arguments), dict)
