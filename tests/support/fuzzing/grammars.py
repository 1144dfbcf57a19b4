"""Grammars and JSON schemas, mutated. What a grammar permits is said at random, and must fit its schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import jsonschema
import msgspec

from suite.engine.grammar.grammar import JSON_OBJECT, MAX_BYTES, Grammars, OpenGrammar
from suite.engine.grammar.session import Limits
from suite.engine.schema.json_schema import to_grammar
from suite.errors import SuiteError
from suite.messages.actions.generation import GenerateTextRequest
from support.bare import bare
from support.fuzzing.mutation import junk, mutated_document, mutated_text
from support.fuzzing.run import Target, bounded
from support.models import tiny_model
from support.walker import Walker

SECONDS: Final = 10.0
"""For one schema to become a grammar; llama.cpp has limits of its own."""
_REFUSALS: Final = ("invalid_grammar", "invalid_schema", "schema_not_supported", "invalid_request")
_bug: Final = re.compile(r"would crash llama\.cpp: \w*(Error|Exception|Exit)\b").search
"""What is said of a grammar whose process ended with an exception in Python, which is not llama.cpp's."""

NULL, BOOLEAN = {"type": "null"}, {"type": "boolean"}
SCHEMAS: Final[tuple[Any, ...]] = (
    True,
    {"type": ["string", "null"], "minLength": 1, "maxLength": 9},
    {"type": "string", "pattern": "^[A-C]\\d{2}(-x|y+?)?$"},
    {"type": "string", "pattern": "^(?:a|b){1,3}[^c-e\\s]\\.$", "format": "date-time"},
    {"enum": ["a", "ab", 'a"b', 1, 2.5, None, {"x": [True]}]},
    {"type": "integer", "minimum": -15, "maximum": 205},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 3.5, "multipleOf": 0.5},
    {"type": "array", "items": BOOLEAN, "minItems": 1, "maxItems": 3, "uniqueItems": True},
    {"type": "array", "prefixItems": [NULL, {"const": 1}], "items": False, "contains": NULL},
    {
        "type": "object",
        "properties": {"a": NULL, "b": {"type": "string", "maxLength": 3}, "c": {"$ref": "#/$defs/x"}},
        "required": ["a", "c"],
        "additionalProperties": BOOLEAN,
        "patternProperties": {"^x_[ab]+$": {"type": "integer"}},
        "propertyNames": {"maxLength": 4},
        "minProperties": 1,
        "maxProperties": 5,
        "dependentRequired": {"b": ["a"]},
        "dependentSchemas": {"a": {"properties": {"b": False}}},
        "$defs": {"x": {"anyOf": [NULL, {"type": "array", "items": {"$ref": "#/$defs/x"}, "maxItems": 2}]}},
    },
    {
        "allOf": [{"$ref": "#/$defs/pet"}, {"properties": {"barks": BOOLEAN}, "required": ["barks"]}],
        "unevaluatedProperties": False,
        "$defs": {"pet": {"type": "object", "properties": {"name": {"const": "x"}}, "required": ["name"]}},
    },
    {"oneOf": [NULL, {"type": "integer"}, {"properties": {"kind": {"const": "a"}}, "required": ["kind"]}]},
    {
        "properties": {"kind": {"enum": ["a", "b"]}},
        "anyOf": [{"properties": {"y": BOOLEAN}}, {"required": ["kind"]}],
    },
    {
        "$id": "https://example.org/r",
        "$ref": "other#/$defs/x",
        "$defs": {"o": {"$id": "other", "$defs": {"x": NULL}}},
    },
    {"if": {"type": "string"}, "then": {"maxLength": 1}, "else": {"type": "null"}, "not": {"const": 5}},
)
_KEYWORDS: Final = tuple(
    dict.fromkeys(
        name
        for each in SCHEMAS
        if isinstance(each, dict)
        for name in re.findall(r'"([$a-zA-Z]+)":', json.dumps(each))
    )
)
_WIDE: Final = r"""
root ::= (a | b)? c{2} d{,3} e{1,}
a ::= "\x41\u00e9\U0001F600"
b ::= a a
c ::= [\]\-x]
d ::= ""
e ::= b | "z"
"""
_LIST: Final = r"""
root ::= item+ # a comment
item ::= "- " [^\n]+ "\n"
"""
_WORD: Final = r"""
root ::= [0-9]+ "." [a-f]* (" " word){1,3}
word ::= "yes" | "no" | [^a-z\n] | .
"""
GRAMMARS: Final = (JSON_OBJECT, _WIDE, _LIST, _WORD, 'root ::= <[3]> !<[4]> "a" | <s>')
_REPETITIONS: Final = ("*", "+", "?", "{2}", "{0,3}", "{1,}", "{0}")
_WORDS: Final = (
    *(
        "::=",
        "|",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "*",
        "+",
        "?",
        "{0}",
        "{0,0}",
        "{99999999999}",
        "{2,1}",
        "{1000}",
    ),
    *(
        '"',
        "\\",
        "\\x",
        "\\u12",
        "\\U00110000",
        "\\ud800",
        "[^]",
        "[z-a]",
        "[a-",
        "root",
        "root ::= root",
        ".",
        "!",
    ),
    *(
        "<[99999]>",
        "<",
        ">",
        "\n",
        "\r",
        "\t",
        "#",
        "\0",
        "é",
        "\U0001f600",
        "((((((((((",
        "a" * 3000,
        "(a?){9}" * 4,
    ),
)


class Source(NamedTuple):
    """What a grammar is made from, and the choice of what is said by it."""

    kind: str
    """`grammar`, `schema`, or `tools`: the schema is that of a tool's arguments."""
    source: Any
    choice: int


def make_schema(random: Random) -> Source:
    """A schema that is wrong somewhere, or none."""
    schema = random.choice(SCHEMAS)
    for _ in range(random.randrange(3)):
        schema = _nested(schema, random)
    if random.random() < 0.9:
        schema = mutated_document({"x": schema}, random)
        schema = schema.get("x", {}) if isinstance(schema, dict) else schema
    return Source("tools" if random.random() < 0.2 else "schema", schema, random.getrandbits(32))


def _nested(schema: Any, random: Random) -> Any:
    """A schema with another one in or beside it."""
    other = random.choice(SCHEMAS)
    keyword = random.choice(_KEYWORDS)
    match random.randrange(5):
        case 0:
            return {
                "properties": {"a": schema, "b": other},
                "required": random.choice(([], ["a"], ["b", "c"])),
            }
        case 1:
            return {random.choice(("anyOf", "oneOf", "allOf")): [schema, other]}
        case 2:
            return {
                "type": "array",
                random.choice(("items", "contains", "additionalItems")): schema,
                "maxItems": 2,
            }
        case 3 if isinstance(schema, dict) and isinstance(other, dict):
            return {**schema, **other}
        case _ if isinstance(schema, dict):
            return {**schema, keyword: random.choice((junk(random), other, [other], {"a": other}))}
    return schema


def make_grammar(random: Random) -> Source:
    """A grammar that is wrong somewhere."""
    grammar = random.choice(GRAMMARS) if random.random() < 0.4 else _grammar(random)
    if random.random() < 0.5:
        grammar = mutated_text(grammar, random, _WORDS)
    return Source("grammar", grammar, random.getrandbits(32))


def _grammar(random: Random) -> str:
    """A grammar of a few rules, which may lead to each other in any way."""
    names = ["root", "a", "b", "c"][: random.randrange(1, 5)]
    return "\n".join(f"{name} ::= {_rule(names, random, 3)}" for name in names)


def _rule(names: Sequence[str], random: Random, depth: int) -> str:
    match random.randrange(8 if depth else 4):
        case 0:
            return random.choice(names)
        case 1:
            return random.choice(("[a-z]", "[^a]", "[0-9]", ".", "[\\x00-\\xff]", "[é-ü]", "[^\\n\\]]"))
        case 2 | 3:
            return f'"{random.choice(("", "a", "ab", "é", " the", "in", "0"))}"'
        case 4:
            return f"({_rule(names, random, depth - 1)} | {_rule(names, random, depth - 1)})"
        case 5:
            return f"({_rule(names, random, depth - 1)}){random.choice(_REPETITIONS)}"
        case _:
            return f"{_rule(names, random, depth - 1)} {_rule(names, random, depth - 1)}"


class Followers:
    """Makes grammars of sources, and says by them what they permit."""

    def __init__(self, grammars: Grammars, walker: Walker) -> None:
        self._grammars = grammars
        self._walker = walker

    async def check(self, source: Source) -> str:
        """The outcome as a code. Raises AssertionError for what breaks the schema."""
        try:
            if (fields := _fields(source)) is None:
                return "no object"
            if source.kind == "schema" and len(json.dumps(source.source)) < MAX_BYTES:
                with bounded(SECONDS):
                    to_grammar(source.source)
            async with self._grammars.for_request(fields) as opened:
                assert opened is not None
                return self._follow(source, opened)
        except SuiteError as error:
            assert error.code in _REFUSALS, error
            assert not _bug(error.message), error.message
            return error.code

    def _follow(self, source: Source, opened: OpenGrammar) -> str:
        if opened.session is None:
            return "not followed"
        said = self._walker.follow(opened.session, Random(source.choice))
        if said is None:
            return "has no end"
        if source.kind == "schema" and not opened.warnings:
            _validate(json.loads(said), source.source)
            return "valid"
        return "followed"


def _fields(source: Source) -> GenerateTextRequest | None:
    """A request with it; None where it cannot be part of one."""
    request: dict[str, Any] = {"model_id": "m", "prompt": "x"}
    match source.kind:
        case "grammar":
            request["grammar"] = source.source
        case "schema":
            request["response_format"] = {"type": "json_schema", "json_schema": {"schema": source.source}}
        case _:
            request["tools"] = [{"function": {"name": "f", "parameters": source.source}}]
            request["tool_choice"] = "required"
    try:
        return msgspec.convert(request, GenerateTextRequest)
    except msgspec.ValidationError:
        return None


def _validate(value: Any, schema: Any) -> None:
    names = re.findall(r'"\$(?:id|anchor)": ("[^"]*")', json.dumps(schema))
    if len(set(names)) < len(names):
        return  # what one name of two schemas means is not defined
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError:
        return
    jsonschema.Draft202012Validator(schema).validate(value)


@contextmanager
def _following(directory: Path) -> Iterator[Followers]:
    with bare(tiny_model(directory / "tiny.gguf")) as model:
        grammars = Grammars(model.path, Limits(compile_seconds=1))
        try:
            yield Followers(grammars, Walker(model.vocabulary))
        finally:
            grammars.close()


@contextmanager
def schemas(directory: Path) -> Iterator[Target[Source]]:
    """JSON schemas."""
    with _following(directory) as followers:
        yield Target(name="schemas", make=make_schema, check=followers.check, written=_text)


@contextmanager
def grammars(directory: Path) -> Iterator[Target[Source]]:
    """Grammars in llama.cpp's notation."""
    with _following(directory) as followers:
        yield Target(name="grammars", make=make_grammar, check=followers.check, written=_text)


def _text(source: Source) -> bytes:
    return json.dumps(source._asdict(), indent=1).encode()
