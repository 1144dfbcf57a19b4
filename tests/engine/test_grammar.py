"""Grammars and schemas of clients: the bad ones are refused, and this process lives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anyio
import jsonschema
import pytest

from suite.engine.grammar import JSON_OBJECT, MAX_BYTES, Constraint, Grammars
from suite.engine.json_schema import to_grammar
from suite.engine.sampler import Sampler, Sampling
from suite.errors import GenerationFailed, InvalidGrammar, InvalidRequest, InvalidSchema
from suite.messages.actions.chat import ResponseFormat, SchemaFormat
from suite.messages.actions.generation import GenerateTextRequest
from support.bare import Bare, bare
from support.models import tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    with bare(tiny_model(tmp_path_factory.mktemp("grammar") / "tiny.gguf", context=2048), 2048) as found:
        yield found


@pytest.fixture(scope="module")
def grammars(tiny: Bare) -> Grammars:
    return Grammars(tiny.path, cpu_seconds=1)


def request(**fields: Any) -> GenerateTextRequest:
    return GenerateTextRequest(model_id="m", prompt="x", **fields)


BAD = {
    "no root": ('start ::= "a"', "root"),
    "a syntax error": ("root ::= (", "."),
    "an undefined rule": ("root ::= other", "other"),
    "left recursion": ('root ::= root "a" | "b"', "left recursion"),
    "a reversed range": ("root ::= [z-a]", "."),
    "a code point beyond Unicode": (r"root ::= [\U00110000-\UFFFFFFFF]", "Unicode ends"),
    "a token that there is not": ("root ::= <[999999999]>", "."),
    "a token id beyond all numbers": ("root ::= <[99999999999999999999999]>", "."),
    "a token of two tokens": ("root ::= <no such token>", "."),
    "repetition of nothing": ("root ::= *", "."),
    "too many repetitions": ('root ::= "a"{1000000000}', "."),
    "nothing that a token says": (r'root ::= "\x00"', "none of the model's tokens"),
    "a dead end": (r'root ::= "a" "\x00"', "none of the model's tokens"),
    "endless nesting": ("root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000, "."),
    "explosive repetition": ("root ::= " + "(" * 9 + '"a"?' + "){1,9}" * 9, "."),
    "an explosion of ways": (
        f"root ::= {'x ' * 400}\nx ::= (y | y2)?\ny ::= z | y3\ny2 ::= z\ny3 ::= z? z? z?\nz ::= [a]",
        ".",
    ),
    "an explosion behind a beginning": (f'root ::= "abcdefghij" ({"(" * 6}"a"?{"){1,9}" * 6})', "."),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_grammar_is_refused_with_what_is_wrong(grammars: Grammars, name: str) -> None:
    text, reason = BAD[name]
    with pytest.raises(InvalidGrammar, match=reason):
        await grammars.check("grammar", text)


async def test_one_that_eats_memory_is_refused(tiny: Bare) -> None:
    text = f'root ::= "{"a" * 30_000}"{{1999}}'
    with pytest.raises(InvalidGrammar, match="more than 64 MiB"):
        await Grammars(tiny.path, memory_bytes=64 * 1024**2).check("grammar", text)


async def test_a_good_grammar_and_a_bad_one_are_tried_once(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = 'root ::= "yes" | "no"', "root ::= ["
    found = await grammars.check("grammar", good)
    with pytest.raises(InvalidGrammar) as first:
        await grammars.check("grammar", bad)

    async def never(*_arguments: object, **_options: object) -> None:
        raise AssertionError("it was tried again")

    monkeypatch.setattr(anyio, "run_process", never)
    assert await grammars.check("grammar", good) == found == Constraint(grammar=good)
    with pytest.raises(InvalidGrammar) as second:
        await grammars.check("grammar", bad)
    assert second.value.message == first.value.message
    assert second.value is not first.value


async def test_what_is_too_long_or_has_a_nul_is_refused_without_a_process(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anyio, "run_process", None)
    with pytest.raises(InvalidGrammar, match="64 KiB"):
        await grammars.check("grammar", "#" * (MAX_BYTES + 1))
    with pytest.raises(InvalidGrammar, match="NUL"):
        await grammars.check("grammar", "root ::= .\0")
    with pytest.raises(InvalidSchema, match="64 KiB"):
        await grammars.of(request(json_schema={"description": "x" * MAX_BYTES}))


async def test_a_model_that_is_gone_is_not_the_grammars_fault(tiny: Bare) -> None:
    grammars = Grammars(tiny.path + ".gone")
    with pytest.raises(GenerationFailed, match="cannot be loaded"):
        await grammars.check("grammar", "root ::= .")


# --- requests -----------------------------------------------------------------------------------------------


async def test_a_request_has_one_constraint_or_none(grammars: Grammars) -> None:
    text, anything = ResponseFormat(type="text"), ResponseFormat(type="json_object")
    assert await grammars.of(request()) is None
    assert await grammars.of(request(response_format=text)) is None
    assert await grammars.of(request(response_format=anything)) == Constraint(grammar=JSON_OBJECT)
    assert await grammars.of(request(response_format=text, grammar="root ::= .")) is not None
    with pytest.raises(InvalidRequest, match="grammar and response_format"):
        await grammars.of(request(response_format=anything, grammar="root ::= ."))
    with pytest.raises(InvalidRequest, match=r"json_schema\.schema is missing"):
        await grammars.of(request(response_format=ResponseFormat(type="json_schema")))


async def test_a_schema_comes_in_three_ways(grammars: Grammars) -> None:
    schema = {"type": "integer", "minimum": 3}
    expected = await grammars.of(request(json_schema=schema))
    assert expected is not None
    assert expected.warnings == ("json schema: /minimum cannot be enforced",)
    for form in (
        ResponseFormat(type="json_schema", json_schema=SchemaFormat(schema=schema, name="n", strict=True)),
        ResponseFormat(type="json_schema", schema=schema),
    ):
        assert await grammars.of(request(response_format=form)) == expected


async def test_our_own_grammar_of_json_passes_the_trial(grammars: Grammars) -> None:
    await grammars.check("grammar", JSON_OBJECT)


# --- schemas ------------------------------------------------------------------------------------------------

PERSON = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Person",
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5, "title": "Name"},
        "kind": {"enum": ['a"b', "c\\d", "é", None, 3], "type": ["string", "null"]},
        "tag": {"const": {"x": [1, "y"]}},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "pair": {"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": False},
        "code": {"type": "string", "pattern": "^[A-C]\\d{2}(-x)?$"},
        "when": {"type": "string", "format": "date"},
        "next": {"anyOf": [{"$ref": "#/$defs/string"}, {"type": "null"}]},
    },
    "required": ["name", "kind", "tag", "tags", "pair", "code", "when", "next"],
    "$defs": {"string": {"type": "object", "properties": {"z": {"type": "null"}}, "required": ["z"]}},
}

SCHEMAS: dict[str, dict[str, Any]] = {
    "a person": PERSON,
    "a list": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2},
    "an empty list": {"type": "array", "items": False},
    "one part of all": {"allOf": [{"type": "boolean"}], "title": "flag"},
    "all of two": {
        "allOf": [
            {"properties": {"a": {"type": "null"}}, "required": ["a"]},
            {"properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ]
    },
    "itself, at last": {
        "properties": {"x": {"anyOf": [{"type": "null"}, {"type": "null"}, {"$ref": "#"}]}},
        "required": ["x"],
    },
    "several types": {"type": ["object", "null"], "properties": {"a": {"type": "null"}}, "required": ["a"]},
}


@pytest.mark.parametrize("name", SCHEMAS)
async def test_what_follows_a_schema_validates(grammars: Grammars, tiny: Bare, name: str) -> None:
    constraint = await grammars.of(request(json_schema=SCHEMAS[name]))
    assert constraint is not None
    assert constraint.warnings == ()
    for seed in (1, 2):
        sampling = Sampling(temperature=1.0, seed=seed, grammar=constraint.grammar)
        with Sampler(sampling, tiny.vocabulary) as sampler:
            text = tiny.text(sampler, "Some JSON:", 1500)
        jsonschema.validate(json.loads(text), SCHEMAS[name])


WRONG: dict[str, tuple[Any, str]] = {
    "no such type": ({"properties": {"a": {"type": "text"}}}, "/properties/a/type: .*none of object"),
    "a type that is none": ({"type": {"a": 1}}, "/type"),
    "an empty choice": ({"properties": {"a": {"enum": []}}}, "/properties/a/enum"),
    "a choice of another type": ({"type": "string", "enum": [1, 2]}, "none of the enum"),
    "an empty union": ({"anyOf": []}, "/anyOf"),
    "bounds that cross": ({"type": "array", "minItems": 3, "maxItems": 2}, "minItems is larger"),
    "a bound that is none": ({"type": "string", "maxLength": "x"}, "/maxLength"),
    "false": ({"properties": {"a": False}, "required": ["a"]}, "/properties/a"),
    "required and forbidden": (
        {"properties": {}, "required": ["a"], "additionalProperties": False},
        "/required: 'a'",
    ),
    "a reference to nothing": ({"$ref": "#/$defs/x"}, r"\$ref: there is no"),
    "a reference elsewhere": ({"$ref": "https://example.org/x"}, r"\$ref: only"),
    "a reference to itself": ({"$ref": "#"}, "without end"),
    "never an end": ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "without end"),
    "a list without end": ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "without end"),
    "a pattern that is open": ({"type": "string", "pattern": "a+"}, "/pattern"),
    "a schema that is none": ({"properties": {"a": 3}}, "/properties/a"),
    "too many items": ({"type": "array", "items": {"type": "null"}, "maxItems": 60_000}, "KiB"),
    "too many characters": ({"type": "string", "minLength": 60_000}, "KiB"),
}


def test_what_is_required_and_not_described_may_be_anything() -> None:
    schema = {"properties": {"b": {"type": "null"}}, "required": ["a"]}
    assert 'a-kv ::= "\\"a\\"" space ":" space value' in to_grammar(schema).grammar


@pytest.mark.parametrize("name", WRONG)
def test_a_schema_that_cannot_be_met_is_refused_with_the_place(name: str) -> None:
    schema, reason = WRONG[name]
    with pytest.raises(InvalidSchema, match=reason):
        to_grammar(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"type": "string", "pattern": "^((((((a?){9}){9}){9}){9}){9}){9}$"},
        {"type": "string", "pattern": "^(a$"},
        {"type": "string", "pattern": "^*$"},
    ],
)
async def test_a_hostile_schema_is_refused(grammars: Grammars, schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidSchema):
        await grammars.of(request(json_schema=schema))
