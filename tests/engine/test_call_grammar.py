"""Grammars of tool calls: what follows them is read as calls whose arguments keep to the tools' schemas."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import jsonschema
import msgspec
import pytest

from suite.engine.grammar.call_source import CallableTool, CallSource
from suite.engine.grammar.calls import call_grammar
from suite.engine.grammar.grammar import MAX_CALLS_BYTES, Grammars, OpenGrammar
from suite.engine.grammar.session import GrammarSession, Limits
from suite.engine.prompts.call_form import PLAIN, CallForm, call_form
from suite.engine.prompts.tool_calls import extract_tool_calls
from suite.engine.sampler import Sampler, SamplingParams
from suite.errors import InvalidRequest, InvalidSchema, SchemaNotSupported
from suite.messages.actions.chat import Function
from suite.messages.actions.generation import GenerateTextRequest
from support.bare import Bare, bare
from support.models import tiny_model
from support.walker import Walker

TEMPLATES = {
    "Hermes": "... return a json object within <tool_call></tool_call> XML tags ...",
    "Mistral": "[AVAILABLE_TOOLS] ... [TOOL_CALLS] ...",
    "newer Mistral": "[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}",
    "Functionary": "<function={{ name }}>{{ arguments }}</function>",
    "Phi": "<|tool|> ... <|tool_call|>[...]<|/tool_call|>",
    "Llama": '<|python_tag|> ... {"name": ... "parameters": ...',
    "another": "{{ tools }}",
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 5}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city", "days"],
}
END = 2
"""The token that ends an answer of the tiny model."""
BROKEN = {"type": "object", "properties": {"x": {"type": "text"}}, "required": ["x"]}
UNFOLLOWED = {"type": "object", "properties": {"x": {"type": "integer", "multipleOf": 3}}}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    with bare(tiny_model(tmp_path_factory.mktemp("calls") / "tiny.gguf", context=2048), 2048) as found:
        yield found


@pytest.fixture(scope="module")
def walker(tiny: Bare) -> Walker:
    return Walker(tiny.vocabulary)


@pytest.fixture(scope="module")
def grammars(tiny: Bare) -> Iterator[Grammars]:
    found = Grammars(tiny.path)
    yield found
    found.close()


def tool(name: str, parameters: dict[str, Any] | None, strict: bool | None = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": strict}}


def request(*tools: dict[str, Any], **fields: Any) -> GenerateTextRequest:
    chat = [{"role": "user", "content": "x"}]
    given = {"model_id": "m", "messages": chat, "tools": tools or (tool("weather", WEATHER),), **fields}
    return msgspec.convert(given, GenerateTextRequest)


@asynccontextmanager
async def opened(
    grammars: Grammars, asked: GenerateTextRequest, form: CallForm = PLAIN
) -> AsyncIterator[OpenGrammar]:
    async with grammars.for_request(asked, lambda: form) as found:
        assert found is not None
        yield found


def hear(tiny: Bare, session: GrammarSession, text: str) -> bool:
    """Whether the text is permitted, character by character."""
    tokens = {tiny.vocabulary.piece(id): id for id in reversed(range(tiny.vocabulary.size))}
    return all(session.try_accept(tokens[character.encode()]) for character in text)


@pytest.mark.parametrize("family", TEMPLATES)
@pytest.mark.parametrize("name", ["weather", 'say "ä"'])
def test_what_follows_the_grammar_is_read_as_a_call(walker: Walker, family: str, name: str) -> None:
    form = call_form(TEMPLATES[family], ())
    assert (form == PLAIN) == (family == "another")
    tools = (CallableTool(name=name, parameters=WEATHER), CallableTool(name="now"))
    made = call_grammar(CallSource(form=form, tools=tools, is_required=True))
    assert made.warnings == () == made.triggers
    functions = [Function(name=each.name, parameters=each.parameters) for each in tools]
    called = set()
    for seed in range(8):
        text = walker.walk(made.grammar, Random(seed), f"n{name[0]}1")
        found = extract_tool_calls(text, functions, "g")
        assert len(found.calls) == 1 and not found.text, text
        called.add(found.calls[0].function.name)
        schema = WEATHER if found.calls[0].function.name == name else {"maxProperties": 0}
        jsonschema.validate(json.loads(found.calls[0].function.arguments), schema)
    assert called == {name, "now"}


@pytest.mark.parametrize("family", TEMPLATES)
async def test_there_are_as_many_calls_as_may_be(grammars: Grammars, tiny: Bare, family: str) -> None:
    form = call_form(TEMPLATES[family], ())
    arguments = '{"city": "a", "days": 2}'
    calls = [f"{form.before}weather{form.between}{arguments}{form.after}"] * 2
    two = form.begin + form.separator.join(calls) + form.end
    one = form.begin + calls[0] + form.end
    for fields, may_be_two in (
        ({"tool_choice": "required"}, True),
        ({"tool_choice": "required", "parallel_tool_calls": False}, False),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, False),
    ):
        for text, may_be in ((one, True), (two, may_be_two)):
            async with opened(grammars, request(**fields), form) as found:
                assert found.session is not None
                assert hear(tiny, found.session, text) is may_be, text
                if may_be:
                    assert found.session.try_accept(END)


async def test_only_the_chosen_function_can_be_called(grammars: Grammars, tiny: Bare) -> None:
    chosen = {"type": "function", "function": {"name": "now"}}
    asked = request(tool("weather", BROKEN), tool("now", None), tool_choice=chosen)
    async with opened(grammars, asked) as found:
        assert found.warnings == () and found.session is not None
        assert hear(tiny, found.session, '{"name": "now", "arguments": {}}')
    for fields, why in (
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "no tool 'x'"),
        ({"tool_choice": "required", "grammar": "root ::= ."}, "tool_choice and grammar"),
    ):
        with pytest.raises(InvalidRequest, match=why):
            async with opened(grammars, request(**fields)):
                pass
    with pytest.raises(InvalidRequest, match="needs tools"):
        async with grammars.for_request(
            GenerateTextRequest(model_id="m", prompt="x", tool_choice="required")
        ):
            pass


async def test_a_tool_with_a_broken_schema_is_named_and_the_others_work(
    grammars: Grammars, tiny: Bare
) -> None:
    tools = (tool("broken", BROKEN), tool("weather", WEATHER), tool("unfollowed", UNFOLLOWED))
    async with opened(grammars, request(*tools, tool_choice="required")) as found:
        broken, unfollowed = found.warnings
        assert broken.startswith("tool 'broken': /properties/x/type: ") and "any object" in broken
        assert unfollowed == "tool 'unfollowed': json schema: /properties/x/multipleOf cannot be enforced"
        assert found.session is not None
        assert hear(tiny, found.session, '{"name": "weather", "arguments": {"city": "a", "days": 2}}')
    async with opened(grammars, request(*tools)) as found:
        assert found.warnings == (broken,)


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "broken"}}])
async def test_a_strict_tool_is_followed_or_refused(grammars: Grammars, choice: object) -> None:
    with pytest.raises(InvalidSchema, match="tool 'broken': /properties/x/type"):
        async with opened(grammars, request(tool("broken", BROKEN, True), tool_choice=choice)):
            pass
    with pytest.raises(SchemaNotSupported, match=r"tool 'broken': strict: .*/properties/x/multipleOf"):
        async with opened(grammars, request(tool("broken", UNFOLLOWED, True), tool_choice=choice)):
            pass
    async with opened(grammars, request(tool("broken", WEATHER, True), tool_choice=choice)) as found:
        assert found.warnings == ()


async def test_a_strict_answer_is_followed_or_refused(grammars: Grammars) -> None:
    for strict in (True, False, True):
        form = {"type": "json_schema", "json_schema": {"schema": UNFOLLOWED, "strict": strict}}
        asked = msgspec.convert(
            {"model_id": "m", "prompt": "x", "response_format": form}, GenerateTextRequest
        )
        if strict:
            with pytest.raises(SchemaNotSupported, match=r"/properties/x/multipleOf .*without strict"):
                async with opened(grammars, asked):
                    pass
        else:
            async with opened(grammars, asked) as found:
                assert found.warnings == ("json schema: /properties/x/multipleOf cannot be enforced",)


# --- calls that the model begins itself ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "before", "after"),
    [
        ("Hermes", "Let me see: <tool_call>", '\n{"name": "weather", "arguments": {"city": "a", "days": 2}}'),
        ("Mistral", "[TOOL_CALLS]", '[{"name": "weather", "arguments": {"city": "a", "days": 2}}]'),
        ("newer Mistral", "[TOOL_CALLS]", 'weather[ARGS]{"city": "a", "days": 2}'),
        ("Llama", '{"name": "weather", "parameters":', ' {"city": "a", "days": 2}}'),
        ("another", '\n {"name":"weather","arguments":', '{"city": "a", "days": 2}}'),
    ],
)
async def test_a_call_that_the_model_begins_follows_the_schema(
    grammars: Grammars, tiny: Bare, family: str, before: str, after: str
) -> None:
    form = call_form(TEMPLATES[family], ())
    for text, may_be in ((after, True), (after.replace("days", "weeks"), False)):
        async with opened(grammars, request(), form) as found:
            assert found.session is not None and found.is_optional
            assert hear(tiny, found.session, before)
            assert hear(tiny, found.session, text) is may_be


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("Hermes", 'It {"name": "weather", "arguments": {"x": 1}} rains.'),
        ("Hermes", "A <tool_ call> it is."),
        ("another", '{"name": "Paris", "arguments": "none"}'),
        ("another", 'Write {"name": "weather", "arguments": 7}.'),
    ],
)
async def test_what_begins_no_call_is_free(grammars: Grammars, tiny: Bare, family: str, text: str) -> None:
    async with opened(grammars, request(), call_form(TEMPLATES[family], ())) as found:
        assert found.session is not None
        assert hear(tiny, found.session, text)


async def test_a_beginning_that_came_with_something_else_is_free(grammars: Grammars, tiny: Bare) -> None:
    """One token may have the end of a marker and more; what does not fit is no reason to fail."""
    form = msgspec.structs.replace(call_form(TEMPLATES["Hermes"], ()), marker="th")
    async with opened(grammars, request(), form) as found:
        assert found.session is not None
        assert found.session.try_accept(tiny.vocabulary.tokenize("the", begins=False)[0])
        assert hear(tiny, found.session, " sea")


async def test_tools_whose_grammar_cannot_be_made_can_still_be_called(grammars: Grammars) -> None:
    large = tool("large", {"type": "object", "description": "x" * MAX_CALLS_BYTES})
    async with opened(grammars, request(large)) as found:
        assert found.session is None and found.is_optional
        assert found.warnings[0].startswith("calls do not follow the schemas of the tools: ")
    with pytest.raises(InvalidSchema, match="the schemas of the tools have more than 1024 KiB"):
        async with opened(grammars, request(large, tool_choice="required")):
            pass


async def test_an_answer_goes_on_where_an_optional_grammar_fails(tiny: Bare) -> None:
    grammars = Grammars(tiny.path, Limits(total_seconds=0, token_seconds=0))
    for is_optional in (False, True):
        async with opened(grammars, request()) as found:
            assert found.session is not None
            sampling = SamplingParams(temperature=0, grammar=found.session, is_grammar_optional=is_optional)
            with Sampler(sampling, tiny.vocabulary) as sampler:
                if is_optional:
                    assert len(tiny.tokens(sampler, "the", 3)) == 3
                else:
                    with pytest.raises(InvalidSchema, match=r"more than 0\.5 s for a token"):
                        tiny.tokens(sampler, "the", 3)
    grammars.close()


# --- calls or an answer of a schema -------------------------------------------------------------------------


async def test_an_answer_is_a_call_or_what_the_schema_says(grammars: Grammars, tiny: Bare) -> None:
    hermes, plain = call_form(TEMPLATES["Hermes"], ()), PLAIN
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "a", "days": 2}}\n</tool_call>'
    answer = '{"name": "weather", "arguments": {}}'
    schema = {"properties": {"name": {"type": "string"}, "arguments": {}}, "required": ["name", "arguments"]}
    for asked in (
        request(json_schema=schema),
        request(response_format={"type": "json_object"}),
    ):
        for text in (call, answer):
            async with opened(grammars, asked, hermes) as found:
                assert found.warnings == () and found.session is not None
                assert hear(tiny, found.session, text)
        async with opened(grammars, asked, plain) as found:
            assert "the answer is no call of a tool" in found.warnings[0] and found.session is not None
            assert hear(tiny, found.session, answer)
    async with opened(grammars, request(json_schema=schema, tool_choice="required"), hermes) as found:
        assert found.session is not None
        assert not hear(tiny, found.session, answer)


async def test_a_grammar_of_the_client_is_what_counts(grammars: Grammars, tiny: Bare) -> None:
    async with opened(grammars, request(grammar='root ::= "ab"')) as found:
        assert found.warnings == () and found.session is not None
        assert hear(tiny, found.session, "ab")


def test_a_marker_that_an_answer_does_not_show_tells_nothing_apart() -> None:
    assert call_form(TEMPLATES["Hermes"], ()).is_told_apart
    assert not call_form(TEMPLATES["Hermes"], ("<tool_call>",)).is_told_apart
    assert not PLAIN.is_told_apart
