"""JSON schemas: what follows their grammar validates, and what of them it cannot enforce is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from random import Random
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.engine.schema.json_schema import to_grammar
from suite.errors import InvalidSchema
from support.bare import bare
from support.models import tiny_model
from support.walker import Walker


@pytest.fixture(scope="module")
def walker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walker]:
    with bare(tiny_model(tmp_path_factory.mktemp("schema") / "tiny.gguf")) as found:
        yield Walker(found.vocabulary)


NULL, BOOLEAN = {"type": "null"}, {"type": "boolean"}

MET: dict[str, Any] = {
    "anything": True,
    "any object": {"type": "object"},
    "any array": {"type": "array"},
    "a number": {"type": "number"},
    "an integer": {"type": "integer"},
    "a string": {"type": "string"},
    "a short string": {"type": "string", "minLength": 2, "maxLength": 3},
    "an empty string": {"type": "string", "maxLength": 0},
    "no longer than what can be counted": {"type": "string", "minLength": 1, "maxLength": 4096},
    "no items": {"type": "array", "items": NULL, "maxItems": 0},
    "an item at least": {"type": "array", "items": BOOLEAN, "minItems": 1},
    "up to three items": {"type": "array", "items": BOOLEAN, "maxItems": 3},
    "optional members": {"properties": {"a": NULL, "b": NULL, "c": NULL}},
    "optional and required": {"properties": {"a": NULL, "b": NULL, "c": NULL}, "required": ["b"]},
    "no members": {"type": "object", "additionalProperties": False},
    "members by any name": {"type": "object", "additionalProperties": BOOLEAN},
    "members by other names": {
        "properties": {'n"1': NULL, "n": NULL, "\\": NULL, "forbidden": False, "": NULL},
        "required": ["n", "undescribed"],
        "additionalProperties": BOOLEAN,
    },
    "a date": {"type": "string", "format": "date"},
    "a time": {"type": "string", "format": "time"},
    "a date and time": {"type": "string", "format": "date-time"},
    "a uuid": {"type": "string", "format": "uuid"},
    "a name like one of ours": {
        "properties": {"rule0": {"enum": [1]}, "definition0": {"enum": [2]}, "x": {"$ref": "#/$defs/x"}},
        "required": ["rule0", "definition0", "x"],
        "$defs": {"x": {"enum": ["x", {"y": ['\n"']}]}},
    },
    "all of many": {
        "allOf": [
            {"type": ["object", "string"], "required": ["a"]},
            {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "string", "minLength": 1}},
            },
            {"properties": {"a": {"type": ["integer", "null"]}, "b": {"minLength": 2, "maxLength": 3}}},
            {"properties": {"a": {"enum": [1, 2, 2.5, "x"]}}, "required": ["b"]},
        ],
    },
    "one of what differs": {
        "oneOf": [
            NULL,
            {"type": "integer"},
            {"enum": ["x", True]},
            {"type": "object", "properties": {"kind": {"const": "a"}, "x": NULL}, "required": ["kind", "x"]},
            {"$ref": "#/$defs/b"},
            {"type": "object", "properties": {"y": NULL}, "required": ["y"], "additionalProperties": False},
        ],
        "$defs": {
            "b": {"type": "object", "properties": {"kind": {"enum": ["b", "c"]}}, "required": ["kind"]}
        },
    },
    "bounds of integers": {
        "type": "array",
        "prefixItems": [
            {"type": "integer", "minimum": low, "maximum": high}
            for low, high in ((0, 7), (3, 12), (-15, 205), (-99, -98), (1000, 1000), (-3, 0), (199, 2000))
        ],
    },
    "bounds on one side": {
        "type": "array",
        "prefixItems": [{"exclusiveMinimum": 9}, {"type": "integer", "maximum": -5}, {"minimum": -0.25}],
    },
    "bounds of numbers": {
        "type": "array",
        "prefixItems": [
            {"type": "number", "minimum": 0, "maximum": 1},
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.01},
            {"type": "number", "minimum": -2.75, "maximum": 3.5},
            {"type": "number", "minimum": 0.125, "maximum": 0.125},
        ],
    },
    "all of two references": {
        "allOf": [{"$ref": "#/$defs/pet"}, {"$ref": "#/$defs/dog"}],
        "unevaluatedProperties": False,
        "$defs": {
            "pet": {"type": "object", "properties": {"name": NULL}, "required": ["name"]},
            "dog": {"properties": {"barks": BOOLEAN, "puppy": {"$ref": "#"}}, "required": ["barks"]},
        },
    },
    "alternatives beside properties": {
        "properties": {"kind": {"enum": ["a", "b"]}, "x": NULL},
        "required": ["kind"],
        "anyOf": [
            {"properties": {"kind": {"const": "a"}, "y": BOOLEAN}, "required": ["y"]},
            {"properties": {"kind": {"const": "b"}}, "required": ["x"]},
            {"properties": {"kind": {"const": "c"}}},
        ],
    },
    "alternatives of which one contains itself": {"anyOf": [NULL, {"$ref": "#"}], "type": ["null", "string"]},
    "what a name says": {
        "$id": "https://example.org/root",
        "properties": {"a": {"$ref": "#first"}, "b": {"$ref": "other"}, "c": {"$ref": "other#/$defs/x"}},
        "required": ["a", "b", "c"],
        "$defs": {
            "first": {"$anchor": "first", "const": 1},
            "second": {"$id": "other", "$ref": "#/$defs/x", "$defs": {"x": {"const": 2}}},
        },
    },
    "members by a pattern of names": {
        "patternProperties": {"^x_[ab]+$": BOOLEAN},
        "additionalProperties": False,
    },
    "members by names of a choice": {
        "additionalProperties": BOOLEAN,
        "propertyNames": {"enum": ["a", "b"]},
        "minProperties": 1,
        "maxProperties": 3,
    },
    "named members that a pattern is about": {
        "properties": {"ab": {"minimum": 3}, "b": NULL},
        "patternProperties": {"^a": {"type": "integer"}},
        "required": ["ab"],
    },
    "one member at least": {"properties": {"a": NULL, "b": NULL}, "minProperties": 1},
    "members that depend on others": {
        "properties": {"card": NULL, "address": NULL, "tax": NULL},
        "dependentRequired": {"card": ["address"]},
        "dependentSchemas": {"address": {"properties": {"tax": False}}},
    },
    "further items": {"prefixItems": [NULL, BOOLEAN], "items": {"const": 1}, "minItems": 3, "maxItems": 4},
    "fewer items": {"prefixItems": [NULL, BOOLEAN, False]},
    "a bound as in OpenAPI 3.0": {"type": "integer", "minimum": 4, "maximum": 5},
    "a choice by all that is said": {"enum": [1, 7, "a", "abcd", None], "type": ["integer", "string"]},
}


@pytest.mark.parametrize("name", MET)
def test_what_follows_a_schema_validates(walker: Walker, name: str) -> None:
    schema = MET[name]
    constraint = to_grammar(schema)
    assert constraint.warnings == ()
    for seed in range(5):
        value = json.loads(
            walker.walk(constraint.grammar, Random(seed), 'nforbd"\\1:'), object_pairs_hook=unlike
        )
        jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker(("date", "uuid")))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 2150, "maxLength": 2150},
        {"type": "string", "minLength": 2001},
        {"type": "array", "items": {"const": 1}, "minItems": 2101, "maxItems": 2110},
    ],
)
def test_more_than_llama_cpp_counts_is_counted(walker: Walker, schema: dict[str, Any]) -> None:
    text = walker.walk(to_grammar(schema).grammar, Random(0), ",1ab")
    jsonschema.validate(json.loads(text), schema)


def _objects(smaller: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    members = st.dictionaries(st.sampled_from("abc"), smaller, min_size=1, max_size=3)
    required = st.lists(st.sampled_from("abc"), max_size=2)
    beside = {
        "type": st.just("object"),
        "required": required,
        "additionalProperties": st.booleans() | smaller,
        "minProperties": st.just(1),
        "dependentRequired": st.dictionaries(st.sampled_from("abc"), required, max_size=1),
        "anyOf": st.lists(smaller, min_size=1, max_size=2),
        "oneOf": st.lists(smaller, min_size=1, max_size=2),
        "allOf": st.lists(smaller, min_size=1, max_size=2),
    }
    return st.fixed_dictionaries({"properties": members}, optional=beside)


_INTEGERS = st.fixed_dictionaries(
    {"type": st.just("integer")},
    optional={name: st.integers(-120, 1200) for name in ("minimum", "maximum", "exclusiveMinimum")},
)
_NUMBERS = st.fixed_dictionaries(
    {"type": st.just("number")},
    optional={name: st.decimals(-9, 99, places=2).map(float) for name in ("minimum", "exclusiveMaximum")},
)
_SCHEMAS = st.recursive(
    _INTEGERS
    | _NUMBERS
    | st.sampled_from(
        [NULL, BOOLEAN, {"type": "string", "maxLength": 2}, {"$ref": "#/$defs/x"}, {"$ref": "#"}]
    )
    | st.just({"enum": [1, "a", "ab", None, {"a": 1}]}),
    lambda smaller: (
        _objects(smaller)
        | st.fixed_dictionaries(
            {"type": st.just("array")},
            optional={
                "items": smaller,
                "prefixItems": st.lists(smaller, min_size=1, max_size=2),
                "minItems": st.integers(0, 2),
                "maxItems": st.integers(1, 3),
            },
        )
    ),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(_SCHEMAS, _SCHEMAS, st.integers(0, 1000))
def test_what_follows_any_schema_validates(walker: Walker, schema: Any, other: Any, seed: int) -> None:
    schema = {**schema, "$defs": {"x": other}}
    try:
        made = to_grammar(schema)
        text = "" if made.warnings else walker.walk(made.grammar, Random(seed), "abc01:,")
    except InvalidSchema:
        return
    except AssertionError as error:
        assert "has no end" in str(error)  # a random walk may go on where a model would not
        return
    if text:
        jsonschema.validate(json.loads(text, object_pairs_hook=unlike), schema)


def unlike(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; where two members have one name, the first counts for one reader and the last for others."""
    described = [name for name, _ in pairs if name in ('n"1', "n", "\\")]
    assert len(described) == len(set(described))
    return dict(pairs)


def test_no_month_has_more_days_than_in_a_leap_year(walker: Walker) -> None:
    grammar = to_grammar({"type": "string", "format": "date"}).grammar
    said = {json.loads(walker.walk(grammar, Random(seed), "0123")) for seed in range(300)}
    for day in said:
        date.fromisoformat(f"2024{day[4:]}")


def test_members_come_in_the_order_of_the_schema(walker: Walker) -> None:
    schema = {"properties": dict.fromkeys("badce", NULL), "required": ["d", "c"]}
    grammar = to_grammar(schema).grammar
    said = {
        "".join(json.loads(walker.walk(grammar, Random(n), letters)))
        for n in range(9)
        for letters in ("dc}", "bae,")
    }
    assert all([*names] == sorted(names, key="badce".index) for names in said)
    assert {"dc", "badce"} <= said


def test_an_alternative_that_another_schema_permits_too_is_no_choice_of_one() -> None:
    """The first is written without `b`, and still satisfies the second, which permits `a`."""
    schema = {"oneOf": [{"properties": {"a": NULL}, "required": ["a"]}, {"properties": {"b": NULL}}]}
    assert to_grammar(schema).warnings == ("json schema: /oneOf cannot be enforced",)


def test_a_choice_of_many_texts_is_a_tree(walker: Walker) -> None:
    many = [f"name {n:03}" for n in range(700)]
    grammar = to_grammar({"enum": many}).grammar
    assert grammar.count("name") == 1
    said = {json.loads(walker.walk(grammar, Random(seed), "0123456789")) for seed in range(9)}
    assert said <= set(many)
    assert len(said) > 1


def test_of_a_tree_each_text_can_be_said(walker: Walker) -> None:
    texts: list[Any] = ["a", "ab", 'a"b', "a\\", "", "é", 12, 13, 5]
    grammar = to_grammar({"enum": texts}).grammar
    said = {
        json.loads(walker.walk(grammar, Random(seed), letters))
        for seed in range(60)
        for letters in ('"ab\\', "15", '"\xc3\xa9')
    }
    assert said == set(texts)


KEYWORDS: dict[str, Any] = {
    "minLength": 1,
    "maxLength": 9,
    "pattern": "^[a-z]{3}$",
    "format": "date",
    "contentEncoding": "base64",
    "contentMediaType": "text/plain",
    "minimum": 1,
    "maximum": 9,
    "exclusiveMinimum": 1,
    "exclusiveMaximum": 9,
    "multipleOf": 2,
    "items": BOOLEAN,
    "minItems": 1,
    "maxItems": 9,
    "uniqueItems": True,
    "contains": NULL,
    "minContains": 2,
    "maxContains": 3,
    "unevaluatedItems": False,
    "properties": {"a": NULL},
    "required": ["a"],
    "additionalProperties": False,
    "patternProperties": {"^a": NULL},
    "propertyNames": {"maxLength": 3},
    "minProperties": 1,
    "maxProperties": 9,
    "dependentRequired": {"a": ["a"]},
    "dependentSchemas": {"a": {"required": ["a"]}},
    "unevaluatedProperties": False,
    "not": {"const": 5},
    "if": NULL,
    "then": NULL,
    "else": NULL,
    "$dynamicRef": "#x",
    "anyOf": [True],
    "oneOf": [True],
}
_ALWAYS = {"not", "if", "then", "else", "$dynamicRef"}
_LENGTH = {"minLength", "maxLength"}
_TEXT = _LENGTH | {"pattern", "format", "contentEncoding", "contentMediaType"}
_LIST = {"uniqueItems", "contains", "minContains", "maxContains"}
_OBJECT = {"properties", "required", "additionalProperties", "patternProperties", "propertyNames"}
_OBJECT |= {"unevaluatedProperties"}

LEFT: dict[str, tuple[dict[str, Any], set[str]]] = {
    "a string": ({"type": "string"}, {"contentEncoding", "contentMediaType"}),
    "a format": ({"type": "string", "format": "time"}, _TEXT - {"format"}),
    "a pattern": ({"type": "string", "pattern": "x"}, _TEXT - {"format"}),
    "a number": ({"type": "number"}, {"multipleOf"}),
    "an integer": ({"type": "integer"}, {"multipleOf"}),
    "a boolean": ({"type": "boolean"}, set()),
    "an array": ({"type": "array"}, _LIST),
    "a tuple": ({"type": "array", "prefixItems": [NULL]}, _LIST),
    "an object": ({"type": "object"}, set()),
    "an object with a member": ({"properties": {"a": NULL, "b": NULL}, "required": ["a"]}, set()),
    "two types": ({"type": ["object", "integer"]}, {"multipleOf"}),
    "a choice of texts": ({"enum": ["abc", "2020-02-02"]}, _TEXT - _LENGTH),
    "a constant text": ({"const": "abc"}, _TEXT - _LENGTH),
    "a constant number": ({"const": 3}, {"multipleOf"}),
    "a constant list": ({"const": [1]}, _LIST | {"items", "unevaluatedItems"}),
    "a constant object": ({"const": {"a": 1}}, _OBJECT | {"dependentRequired", "dependentSchemas"}),
    "a union": ({"anyOf": [NULL]}, set()),
    "a choice of schemas": ({"oneOf": [NULL]}, set()),
    "a reference": ({"$ref": "#/$defs/n", "$defs": {"n": NULL}}, set()),
}

_BEFORE = {("a pattern", "format"): "pattern"}
"""Where the added keyword is what counts, and the other is what is left."""


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("keyword", KEYWORDS)
def test_what_cannot_be_enforced_is_named(name: str, keyword: str) -> None:
    schema, left = LEFT[name]
    if keyword in schema:
        return
    warnings = to_grammar(schema | {keyword: KEYWORDS[keyword]}).warnings
    named = {_BEFORE.get((name, keyword), keyword)} & (left | _ALWAYS)
    assert warnings == tuple(f"json schema: /{name} cannot be enforced" for name in named)


@pytest.mark.parametrize(
    ("schema", "places"),
    [
        ({"type": "string", "format": "e-mail"}, ["/format"]),
        ({"type": "integer", "format": "int32"}, ["/format"]),
        ({"type": ["string", "null"], "maxLength": 3, "pattern": "a"}, ["/maxLength"]),
        ({"minimum": 3, "multipleOf": 2}, ["/multipleOf"]),
        ({"type": "integer", "minimum": 1e20}, ["/minimum"]),
        ({"type": "string", "maxLength": 2**40}, ["/maxLength"]),
        ({"anyOf": [{"type": "integer", "multipleOf": 2}], "type": "integer"}, ["/anyOf/0/multipleOf"]),
        ({"$ref": "https://example.org/x", "type": "string"}, ["/$ref"]),
        ({"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"$ref": "y"}}}, ["/$defs/x/$ref"]),
        ({"patternProperties": {"^a": NULL, "^b": NULL}}, ["/patternProperties"]),
        (
            {"type": "object", "properties": {"a": NULL}, "patternProperties": {"(": NULL}},
            ["/patternProperties"],
        ),
        ({"properties": {"a": NULL, "b": NULL}, "maxProperties": 1}, ["/maxProperties"]),
        ({"additionalProperties": NULL, "minProperties": 2}, ["/minProperties"]),
        (
            {"allOf": [{"unevaluatedProperties": False}, {"properties": {"a": NULL}}]},
            ["/allOf/0/unevaluatedProperties"],
        ),
        (
            {"allOf": [{"anyOf": [{"minItems": m} for m in range(30)]} for _ in range(2)]},
            ["/allOf/1/anyOf"],
        ),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ["/oneOf"]),
        ({"oneOf": [{"type": "string"}, {"type": "string", "pattern": "a"}]}, ["/oneOf"]),
        ({"oneOf": [{"const": 1}, {"type": "integer"}]}, ["/oneOf"]),
        ({"oneOf": [NULL, {"required": ["a"]}]}, ["/oneOf"]),
        ({"oneOf": [{"properties": {"a": NULL}}, {"properties": {"b": NULL}}]}, ["/oneOf"]),
        ({"allOf": [{"type": "string", "pattern": "a"}, {"pattern": "b"}]}, ["/allOf/1/pattern"]),
        ({"allOf": [{"type": "integer"}, {"multipleOf": 3}], "minimum": 2}, ["/allOf/1/multipleOf"]),
    ],
)
def test_each_place_that_cannot_be_enforced_is_named_once(schema: dict[str, Any], places: list[str]) -> None:
    assert to_grammar(schema).warnings == tuple(
        f"json schema: {place} cannot be enforced" for place in places
    )


@pytest.mark.parametrize(
    ("schema", "left"),
    [
        ({"enum": [1, "a", None], "type": ["integer", "null"]}, [1, None]),
        ({"enum": ["a", "abc", 5], "minLength": 2}, ["abc", 5]),
        ({"enum": [1, 5, 9], "exclusiveMinimum": 1, "maximum": 5}, [5]),
        ({"enum": [[], [1]], "minItems": 1}, [[1]]),
        ({"enum": [{}, {"a": 1}], "minProperties": 1}, [{"a": 1}]),
        ({"enum": [1, True], "const": True}, [True]),
        ({"const": 2.0, "type": "integer"}, [2.0]),
    ],
)
def test_of_a_choice_what_keeps_to_the_rest_is_left(
    walker: Walker, schema: dict[str, Any], left: list[Any]
) -> None:
    said = {walker.walk(to_grammar(schema).grammar, Random(seed)).strip() for seed in range(20)}
    assert said == {json.dumps(value) for value in left}


IMPOSSIBLE: dict[str, tuple[Any, str]] = {
    "a constant of another type": ({"const": 5, "type": "string"}, "no value of its const"),
    "a constant that is too short": ({"const": "abc", "minLength": 4}, "no value of its const"),
    "a constant outside its enum": ({"const": 1, "enum": [True, "1"]}, "no value of its const"),
    "types that exclude each other": ({"allOf": [NULL, BOOLEAN]}, "/allOf/1/type: no value"),
    "enums that exclude each other": (
        {"allOf": [{"enum": [1]}, {"enum": [True]}]},
        "/allOf/1/enum: it has no",
    ),
    "constants that differ": ({"allOf": [{"const": 1}, {"const": 2}]}, "/allOf/1/const"),
    "lengths that exclude each other": (
        {"allOf": [{"type": "string", "minLength": 5}, {"maxLength": 4}]},
        "minLength is larger",
    ),
    "properties that exclude each other": (
        {
            "allOf": [{"properties": {"a": NULL}}, {"properties": {"a": BOOLEAN}}, {"required": ["a"]}],
        },
        "/allOf/1/properties/a/type",
    ),
    "false among all": ({"allOf": [False, NULL]}, "/allOf/0"),
    "a member that one part forbids and another requires": (
        {"allOf": [{"properties": {"a": NULL}, "additionalProperties": False}, {"required": ["b"]}]},
        "/allOf/0/additionalProperties: false",
    ),
    "bounds without a number": ({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}, "bounds"),
    "alternatives that are all impossible": (
        {"type": "string", "anyOf": [NULL, {"type": "integer"}]},
        "/anyOf/0/type: no value has both",
    ),
    "a name that is forbidden": (
        {"required": ["abc"], "propertyNames": {"maxLength": 2}},
        "/propertyNames: it forbids 'abc'",
    ),
    "more members than may be": ({"required": ["a", "b"], "maxProperties": 1}, "more members are required"),
    "references in a circle": (
        {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}},
        "without end",
    ),
    "an end that never comes": (
        {"properties": {"a": {"anyOf": [{"$ref": "#"}, False]}}, "required": ["a"]},
        "without end",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_nothing_can_meet_is_refused(name: str) -> None:
    schema, reason = IMPOSSIBLE[name]
    with pytest.raises(InvalidSchema, match=reason):
        to_grammar(schema)


JUNK: list[Any] = [None, 3, -1.5, "x", True, [], [1], ["x"], {}, {"a": 1}, [[]], [{"a": [1]}]]
NAMES = [*KEYWORDS, "type", "$ref", "const", "enum", "allOf", "prefixItems", "$defs", "additionalItems"]


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"allOf": [{"properties": [1]}, {}]}, "/allOf/0/properties"),
        ({"allOf": [{"required": 1}, {"required": ["a"]}]}, "/allOf/0/required"),
        ({"dependentRequired": {"a": 1}}, "/dependentRequired/a"),
        ({"$ref": 1}, "/.ref"),
        ({"type": "string", "format": ["x"]}, "/format"),
        ({"type": "integer", "format": ["x"]}, "/format"),
        ({"properties": {"a": {"type": [["string"]]}}}, "/properties/a/type"),
        ({"type": None}, "/type"),
        ({"enum": ["a"], "minLength": "2"}, "/minLength"),
        ({"allOf": [{"minimum": "a"}, {"minimum": 1}]}, "/allOf/0/minimum"),
    ],
)
def test_a_malformed_schema_is_refused_with_the_place(schema: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidSchema, match=f"^{place}: "):
        to_grammar(schema)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("type", [None, "object", "array", "string", "number", ["string", "null"]])
def test_junk_anywhere_is_refused_or_made_into_a_grammar(name: str, type: object) -> None:
    """Whatever it has: nothing but InvalidSchema comes of it."""
    typed = {} if type is None else {"type": type}
    beside = {"properties": {"a": NULL}, "minLength": 1, "enum": ["a", 1], "minItems": 1, "items": {}}
    for junk in JUNK:
        part = {**typed, name: junk}
        for schema in (part, {"allOf": [part, beside]}, {"allOf": [beside, part]}, {"oneOf": [part, beside]}):
            try:
                grammar = to_grammar(schema).grammar
            except InvalidSchema:
                continue
            assert grammar.startswith("root ::= ")
