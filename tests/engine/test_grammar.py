"""Grammars and schemas of clients: bad ones are refused, and this process lives; good ones are followed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import numpy as np
import psutil
import pytest

from suite.engine.grammar.grammar import MAX_BYTES, Grammars
from suite.engine.grammar.session import GrammarProcess, Limits
from suite.engine.sampler import Sampler, SamplingParams
from suite.engine.schema.json_schema import to_grammar
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
def grammars(tiny: Bare) -> Iterator[Grammars]:
    found = Grammars(tiny.path, Limits(compile_seconds=1))
    yield found
    found.close()


async def check(grammars: Grammars, grammar: str) -> None:
    async with grammars.open("grammar", grammar):
        pass


async def warnings(grammars: Grammars, **fields: Any) -> tuple[str, ...] | None:
    """What a request's constraint cannot enforce; None where it has no constraint."""
    async with grammars.for_request(request(**fields)) as following:
        return None if following is None else following.warnings


def request(**fields: Any) -> GenerateTextRequest:
    return GenerateTextRequest(model_id="m", prompt="x", **fields)


BAD = {
    "no root": ('start ::= "a"', "root"),
    "a syntax error": ("root ::= (", "."),
    "an undefined rule": ("root ::= other", "other"),
    "left recursion": ('root ::= root "a" | "b"', "left recursion"),
    "a reversed range": ("root ::= [z-a]", "."),
    "a code point beyond Unicode": (r"root ::= [\U00110000-\UFFFFFFFF]", "Unicode ends"),
    "half of a character": (r'root ::= "\ud800"', "no character"),
    "half of a character in eight digits": (r"root ::= [a-z\U0000DFFF]", "no character"),
    "a token that there is not": ("root ::= <[999999999]>", "."),
    "a token id beyond all numbers": ("root ::= <[99999999999999999999999]>", "."),
    "a token of two tokens": ("root ::= <no such token>", "."),
    "repetition of nothing": ("root ::= *", "."),
    "too many repetitions": ('root ::= "a"{1000000000}', "."),
    "nothing that a token says": (r'root ::= "\x00"', "none of the model's tokens"),
    "endless nesting": ("root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000, "."),
    "explosive repetition": ("root ::= " + "(" * 9 + '"a"?' + "){1,9}" * 9, "."),
    "an explosion of ways": (
        f"root ::= {'x ' * 400}\nx ::= (y | y2)?\ny ::= z | y3\ny2 ::= z\ny3 ::= z? z? z?\nz ::= [a]",
        ".",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_grammar_is_refused_with_what_is_wrong(grammars: Grammars, name: str) -> None:
    text, reason = BAD[name]
    with pytest.raises(InvalidGrammar, match=reason):
        await check(grammars, text)


async def test_one_that_eats_memory_is_refused(tiny: Bare) -> None:
    text = f'root ::= "{"a" * 30_000}"{{1999}}'
    grammars = Grammars(tiny.path, Limits(memory_bytes=64 * 1024**2))
    with pytest.raises(InvalidGrammar, match="more than 64 MiB"):
        await check(grammars, text)
    grammars.close()


async def test_a_bad_grammar_is_read_once(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidGrammar) as first:
        await check(grammars, "root ::= [")
    monkeypatch.setattr(GrammarProcess, "open", None)
    with pytest.raises(InvalidGrammar) as second:
        await check(grammars, "root ::= [")
    assert second.value.message == first.value.message
    assert second.value is not first.value


async def test_what_is_too_long_or_has_a_nul_is_refused_without_a_process(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GrammarProcess, "open", None)
    with pytest.raises(InvalidGrammar, match="64 KiB"):
        await check(grammars, "#" * (MAX_BYTES + 1))
    with pytest.raises(InvalidGrammar, match="NUL"):
        await check(grammars, "root ::= .\0")
    with pytest.raises(InvalidSchema, match="64 KiB"):
        await warnings(grammars, json_schema={"description": "x" * MAX_BYTES})


async def test_a_model_that_is_gone_is_not_the_grammars_fault(tiny: Bare) -> None:
    grammars = Grammars(tiny.path + ".gone")
    with pytest.raises(GenerationFailed, match="ended before it read"):
        await check(grammars, "root ::= .")
    grammars.close()


async def test_the_vocabulary_is_that_of_the_loaded_file(tiny: Bare, tmp_path: Path) -> None:
    path, other = tmp_path / "m.gguf", tmp_path / "other"
    await anyio.Path(path).write_bytes(await anyio.Path(tiny.path).read_bytes())
    grammars = Grammars(str(path))
    await anyio.Path(other).write_bytes(b"other content")
    await anyio.Path(other).rename(path)
    await check(grammars, "root ::= .")
    grammars.close()


# --- processes ----------------------------------------------------------------------------------------------


def descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


async def all_gone(processes: Iterable[psutil.Process]) -> None:
    while any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes):
        await anyio.sleep(0.01)


async def test_a_grammar_has_a_process_for_as_long_as_it_is_followed(grammars: Grammars) -> None:
    async with grammars.open("grammar", "root ::= ."):
        before = descendants()
        async with grammars.open("grammar", "root ::= ."):
            (added,) = descendants() - before
        await all_gone([added])


async def test_a_grammar_that_is_no_longer_wanted_ends_at_once(tiny: Bare) -> None:
    grammars = Grammars(tiny.path, Limits(compile_seconds=600))
    await check(grammars, "root ::= .")
    before = descendants()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(check, grammars, BAD["explosive repetition"][0])
        while not (reading := descendants() - before):
            await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    await all_gone(reading)
    grammars.close()


async def test_grammars_outlive_the_process_that_forks_for_them(tiny: Bare) -> None:
    earlier, grammars = descendants(), Grammars(tiny.path)
    async with grammars.open("grammar", 'root ::= "b"') as first:
        started = descendants() - earlier
        grammars.close()
        async with grammars.open("grammar", 'root ::= "c"') as second:
            for following, letter in ((first, "b"), (second, "c")):
                assert following.session is not None
                permitted = following.session.permitted(np.arange(tiny.vocabulary.size))
                assert {tiny.vocabulary.visible_bytes(int(token)) for token in permitted} == {letter.encode()}
    grammars.close()
    await all_gone(started)


SUDDEN_DEATH = """
import os, psutil, signal, sys
from suite.engine.grammar.session import CompileRequest, GrammarProcess, Limits
process = GrammarProcess(sys.argv[1])
session = process.open()  # held, for without it the child ends
session.compile(CompileRequest(kind="grammar", source="root ::= .", limits=Limits()))
print(*(each.pid for each in psutil.Process().children(recursive=True)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_no_grammar_outlives_the_process_that_follows_it(tiny: Bare) -> None:
    died = await anyio.run_process([sys.executable, "-c", SUDDEN_DEATH, tiny.path], check=False)
    parent, child = died.stdout.split()
    with suppress(psutil.NoSuchProcess):
        await all_gone([psutil.Process(int(parent)), psutil.Process(int(child))])


# --- requests -----------------------------------------------------------------------------------------------


async def test_a_request_has_one_constraint_or_none(grammars: Grammars) -> None:
    text, anything = ResponseFormat(type="text"), ResponseFormat(type="json_object")
    assert await warnings(grammars) is None
    assert await warnings(grammars, response_format=text) is None
    assert await warnings(grammars, response_format=anything) == ()
    assert await warnings(grammars, response_format=text, grammar="root ::= .") == ()
    with pytest.raises(InvalidRequest, match="grammar and response_format"):
        await warnings(grammars, response_format=anything, grammar="root ::= .")
    with pytest.raises(InvalidRequest, match=r"json_schema\.schema is missing"):
        await warnings(grammars, response_format=ResponseFormat(type="json_schema"))


async def test_a_schema_comes_in_four_ways(grammars: Grammars, tiny: Bare) -> None:
    schema = {"type": "boolean"}
    for fields in (
        {"json_schema": schema},
        {"response_format": ResponseFormat(type="json_schema", schema=schema)},
        {"response_format": ResponseFormat(type="json_schema", json_schema=SchemaFormat(schema=schema))},
        {"response_format": ResponseFormat(type="json_object", schema=schema)},
    ):
        async with grammars.for_request(request(**fields)) as following:
            assert following is not None
            sampling = SamplingParams(temperature=0, grammar=following.session)
            with Sampler(sampling, tiny.vocabulary) as sampler:
                assert tiny.text(sampler, "JSON:", 9).strip() in ("true", "false")


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
    for seed in (1, 2):
        async with grammars.for_request(request(json_schema=SCHEMAS[name])) as following:
            assert following is not None
            assert following.warnings == ()
            sampling = SamplingParams(temperature=1.0, seed=seed, grammar=following.session)
            with Sampler(sampling, tiny.vocabulary) as sampler:
                text = tiny.text(sampler, "Some JSON:", 1500)
        jsonschema.validate(json.loads(text), SCHEMAS[name])


WRONG: dict[str, tuple[Any, str]] = {
    "no such type": ({"properties": {"a": {"type": "text"}}}, "/properties/a/type: .*none of object"),
    "a type that is none": ({"type": {"a": 1}}, "/type"),
    "an empty choice": ({"properties": {"a": {"enum": []}}}, "/properties/a/enum"),
    "a choice of another type": ({"type": "string", "enum": [1, 2]}, "no value of its enum"),
    "an empty union": ({"anyOf": []}, "/anyOf"),
    "bounds that cross": ({"type": "array", "minItems": 3, "maxItems": 2}, "minItems is larger"),
    "a bound that is none": ({"type": "string", "maxLength": "x"}, "/maxLength"),
    "false": ({"properties": {"a": False}, "required": ["a"]}, "/properties/a"),
    "required and forbidden": (
        {"properties": {}, "required": ["a"], "additionalProperties": False},
        "/additionalProperties: false permits nothing",
    ),
    "a reference to nothing": ({"$ref": "#/$defs/x"}, r"\$ref: there is no"),
    "a reference to itself": ({"$ref": "#"}, "without end"),
    "never an end": ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "without end"),
    "a list without end": ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "without end"),
    "a schema that is none": ({"properties": {"a": 3}}, "/properties/a"),
    "too large a grammar": ({"type": "string", "pattern": r"\S" * 9000}, "KiB"),
}


def test_what_is_required_and_not_described_may_be_anything() -> None:
    schema = {"properties": {"b": {"type": "null"}}, "required": ["a"]}
    assert '"\\"a\\"" space ":" space value' in to_grammar(schema).grammar


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
        {"type": "string", "pattern": "^(a"},
        {"type": "string", "pattern": "^*$"},
    ],
)
async def test_a_hostile_schema_is_refused(grammars: Grammars, schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidSchema):
        await warnings(grammars, json_schema=schema)
