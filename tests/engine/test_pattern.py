"""Patterns of JSON schemas: what follows their grammar is JSON and matches; the rest is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.engine.schema.json_schema import to_grammar
from suite.engine.schema.pattern import InvalidPattern, UnsupportedPattern, to_gbnf
from suite.errors import InvalidSchema
from support.bare import bare
from support.models import tiny_model
from support.walker import Walker


@pytest.fixture(scope="module")
def walker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walker]:
    with bare(tiny_model(tmp_path_factory.mktemp("pattern") / "tiny.gguf")) as found:
        yield Walker(found.vocabulary)


PATTERNS = [
    "^yes|no$",
    "^a$|^b$",
    "^(yes|no)$",
    "^(?:a|bc)+$",
    r"^v\d+\.\d+$",
    r"^[a-z]+@[a-z]+\.com$",
    r"^[\w\.]+$",
    r"^\/a\-b$",
    r"^[^x]*$",
    r"^[^\s\"]{3}$",
    "^.{2,5}$",
    "^a\tb$",
    r"^a\tb\nc$",
    r"^[\t\n\"\\]{4}$",
    r"^[ -~]{20}$",
    r'^"quoted"$',
    r"^C:\\dir$",
    r"^\D\W\S$",
    r"^[^\W_]{5}$",
    r"^[^\S]\s$",
    "^$",
    "",
    "b+",
    "^https?://",
    r"\.py$",
    "^a{0}b{2}c{1,}?d{0,2}$",
    r"^\u00e9\xe9é[à-ü]{2}$",
    r"^[\u{1F600}-\u{1F64F}]$".replace(r"\u{1F600}", "😀").replace(r"\u{1F64F}", "🙏"),
    r"^[-a][a-][\]\-^]{3}$",
    r"^\x00[\x01-\x05]$",
    r"^(a|)b?$",
    r"^\^\$\(\)\[\]\{\}\*\+\?\.\|$",
    "^x}]$",
    r"^[\b]$",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_follows_a_pattern_is_json_that_matches(walker: Walker, pattern: str) -> None:
    constraint = to_grammar({"type": "string", "pattern": pattern})
    assert constraint.warnings == ()
    for seed in range(8):
        text = walker.walk(constraint.grammar, Random(seed), pattern)
        value = json.loads(text)
        assert isinstance(value, str)
        assert re.search(pattern, value, re.ASCII), f"{value!r}"


def test_a_hyphen_beside_a_shorthand_is_a_hyphen(walker: Walker) -> None:
    grammar = to_grammar({"type": "string", "pattern": r"^[\d-.]{9}$"}).grammar  # as in ECMA 262
    said = "".join(json.loads(walker.walk(grammar, Random(seed))) for seed in range(20))
    assert set("-.1") <= set(said) <= set("-.0123456789")


_CHARACTERS = st.sampled_from([*'abc-^ "\t/@é', r"\.", r"\\", r"\n", r"\"", r"\d", r"\w", r"\S", r"\x41"])
_CLASSES = st.tuples(st.sampled_from(["[", "[^"]), st.lists(_CHARACTERS, min_size=1, max_size=4)).map(
    lambda found: found[0] + "".join(found[1]) + "]"
)
_PATTERNS = st.recursive(
    st.one_of(_CHARACTERS.filter(lambda character: character != "^"), _CLASSES, st.just(".")),
    lambda smaller: st.one_of(
        st.lists(smaller, max_size=3).map("".join),
        st.lists(smaller, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(smaller, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "*?"])).map(
            lambda found: f"(?:{found[0]}){found[1]}"
        ),
    ),
    max_leaves=6,
)
_WHOLE = st.lists(
    st.tuples(st.sampled_from(["", "^"]), _PATTERNS, st.sampled_from(["", "$"])).map("".join),
    min_size=1,
    max_size=2,
).map("|".join)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(_WHOLE, st.integers(0, 1000))
def test_what_follows_any_pattern_is_json_that_matches(walker: Walker, pattern: str, seed: int) -> None:
    try:
        expression = re.compile(pattern, re.ASCII)
        grammar = to_grammar({"type": "string", "pattern": pattern}).grammar
    except (re.error, InvalidSchema):
        return
    text = walker.walk(grammar, Random(seed), pattern)
    assert expression.search(json.loads(text)), text


UNSUPPORTED = {
    r"^\p{L}$": r"\\p is not supported",
    r"^(a)\1$": r"\\1 is not supported",
    r"^a\b": r"\\b is not supported",
    "^(?=a)a$": r"\(\?= is not supported",
    "^(?<n>a)$": r"\(\?< is not supported",
    "^a^b$": r"\^ is not supported but",
    "^a$b$": r"\$ is not supported but",
    "(^a$)": r"\^ is not supported but",
    "^(a$|b)$": r"\$ within parentheses",
    "^(a?)*$": "may be empty",
    "^a{2001}$": "2000",
    "^a{x}$": r"has to be \\\{",
    "^[]$": "empty class",
    r"^\ud83d$": "no character",
}

INVALID = {
    "^*$": "nothing to repeat",
    "^a**$": "nothing to repeat",
    "^a{3,2}$": "wrong way round",
    "^(a": "parentheses",
    "^a)$": "parentheses",
    "^[a$": "brackets",
    "^[z-a]$": "a range in a class",
    "^a\\": "ends with",
}


@pytest.mark.parametrize("pattern", UNSUPPORTED)
def test_what_is_not_supported_is_named_and_its_schema_warned_about(pattern: str) -> None:
    with pytest.raises(UnsupportedPattern, match=UNSUPPORTED[pattern]):
        to_gbnf(pattern)
    schema = {"properties": {"a": {"type": "string", "pattern": pattern, "maxLength": 3}}}
    made = to_grammar(schema)
    assert made.warnings == ("json schema: /properties/a/pattern cannot be enforced",)
    assert "char{0,3}" in made.grammar  # what else the schema says counts


@pytest.mark.parametrize("pattern", INVALID)
def test_what_is_no_expression_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidPattern, match=INVALID[pattern]):
        to_gbnf(pattern)
    with pytest.raises(InvalidSchema, match="/properties/a/pattern: "):
        to_grammar({"properties": {"a": {"type": "string", "pattern": pattern}}})
