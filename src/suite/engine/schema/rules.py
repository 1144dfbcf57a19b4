"""Writes the grammar of a schema in the simple forms (`suite.engine.schema.tree`), in llama.cpp's GBNF.

As in llama.cpp's own converter, one space at most may follow each part of the JSON, because a model could
generate spaces for ever. Members come in the schema's order.
"""

from __future__ import annotations

import json
from collections.abc import Hashable

from suite.engine.grammar.grammar import MAX_BYTES
from suite.engine.schema.literals import none_of, one_of, quoted
from suite.engine.schema.numbers import decimals, integers
from suite.engine.schema.tree import Definitions, Schema
from suite.errors import InvalidSchema

_RULES = {
    "space": '" "?',
    "raw": r'[^"\\\x7F\x00-\x1F]',
    "char": r'raw | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})',
    "string": r'"\"" char* "\"" space',
    "whole": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "integer": "whole space",
    "number": 'whole ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})? space',
    "boolean": '("true" | "false") space',
    "null": '"null" space',
    "member": 'string ":" space value',
    "object": '"{" space (member ("," space member)*)? "}" space',
    "array": '"[" space (value ("," space value)*)? "]" space',
    "value": "object | array | string | number | boolean | null",
    "days": '"0" [1-9] | [12] [0-9]',
    "long": '("0" [13578] | "1" [02]) "-" (days | "30" | "31")',
    "short": '("0" [469] | "11") "-" (days | "30")',
    "day": '[0-9]{4} "-" (long | short | "02-" days)',
    "minutes": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]',
    "clock": 'minutes ":" [0-5] [0-9] ("." [0-9]{3})? ("Z" | [-+] minutes)',
    "date": r'"\"" day "\"" space',
    "time": r'"\"" clock "\"" space',
    "date-time": r'"\"" day "T" clock "\"" space',
    "uuid": r'"\"" [0-9a-fA-F]{8} ("-" [0-9a-fA-F]{4}){3} "-" [0-9a-fA-F]{12} "\"" space',
    "plain": r'raw | "\\" ["\\bfnrt]',  # each character in one way only
}
_COMMA = '"," space'
_COUNTED = 2000
"""The largest repeat count that llama.cpp accepts."""
_CHUNK = 100
_MOST_BYTES = 4 * MAX_BYTES


def write_grammar(root: Schema, definitions: Definitions) -> str:
    """Write the GBNF of a schema; `definitions` must have all its references. Raises InvalidSchema."""
    rules = Rules(definitions)
    return rules.written(root=rules.rule(root))


class Rules:
    """The rules of forms, each rule once."""

    def __init__(self, definitions: Definitions) -> None:
        self._rules: dict[str, str] = {}
        self._definitions = definitions
        self._names: dict[Hashable, str] = {}
        """Names of rules by their content; names of definitions by their references."""

    def written(self, **roots: str) -> str:
        """The GBNF of these rules, with more that are not made of forms. Raises InvalidSchema."""
        rules = {**roots, **_RULES, **self._rules}
        text = "\n".join(f"{name} ::= {content}" for name, content in rules.items())
        if len(text.encode()) > _MOST_BYTES:
            raise InvalidSchema(f"the schema makes a grammar of {len(text) // 1024} KiB: make it simpler")
        return text

    def rule(self, form: Schema) -> str:
        """The name of the rule for a form. Raises InvalidSchema."""
        try:
            return self._rule(form)
        except RecursionError:
            raise InvalidSchema("the schema is nested too deeply") from None

    def _rule(self, form: Schema) -> str:
        if "$ref" in form:
            return self._definition(form["$ref"])
        if "anyOf" in form:
            return self._named(" | ".join(self._rule(part) for part in form["anyOf"]))
        if "enum" in form:
            return self._named(f"{one_of([_json(value) for value in form['enum']])} space")
        if "properties" in form:
            return self._named(f'"{{" space {self._members(form)} "}}" space')
        if "items" in form:
            return self._named(f'"[" space {self._items(form)} "]" space')
        return self._scalar(form)

    def _scalar(self, form: Schema) -> str:
        if "pattern" in form:
            return self._named(f'"\\"" ({form["pattern"]}) "\\"" space')
        if "minLength" in form or "maxLength" in form:
            characters = self._repeated("char", form.get("minLength", 0), form.get("maxLength"))
            return self._named(f'"\\"" {characters} "\\"" space')
        if "minimum" in form:
            return self._named(f"{_number(form)} space")
        name = str(form.get("format", form["type"]))
        return "uuid" if name.startswith("uuid") else name

    def _named(self, content: str) -> str:
        return self._add(content, content)

    def _definition(self, reference: Hashable) -> str:
        if reference not in self._names:
            name = self._add(reference, "")
            self._rules[name] = self._rule(self._definitions[reference])
        return self._names[reference]

    def _add(self, key: Hashable, content: str) -> str:
        if key not in self._names:
            name = self._names[key] = f"rule{len(self._names)}"
            self._rules[name] = content
        return self._names[key]

    def _items(self, form: Schema) -> str:
        first = [self._rule(item) for item in form["prefixItems"]]
        least = max(form.get("minItems", 0) - len(first), 0)
        most = None if "maxItems" not in form else form["maxItems"] - len(first)
        if form["items"] is False or most == 0:
            return f" {_COMMA} ".join(first) or '""'
        item = self._rule(form["items"])
        further = self._named(f"{_COMMA} {item}")
        if first:
            return f"{f' {_COMMA} '.join(first)} {self._repeated(further, least, most)}"
        more = self._repeated(further, max(least - 1, 0), None if most is None else most - 1)
        return f"{item} {more}" if least else f"({item} {more})?"

    def _repeated(self, rule: str, least: int, most: int | None) -> str:
        if max(least, most or 0) <= _COUNTED:
            return f"{rule}{{{least},{'' if most is None else most}}}"
        size = _CHUNK if max(least, most or 0) <= _CHUNK * _COUNTED else _CHUNK * _CHUNK
        chunk, parts = self._chunk(rule, size), []
        if least:
            parts.append(f"{chunk}{{{least // size}}} {self._repeated(rule, least % size, least % size)}")
        if most is None:
            return " ".join([*parts, f"{rule}*"])
        chunks = max((most - least) // size - 1, 0)
        parts.append(f"{chunk}{{0,{chunks}}} {self._repeated(rule, 0, most - least - chunks * size)}")
        return " ".join(parts)

    def _chunk(self, rule: str, size: int) -> str:
        return self._named(f"{rule if size == _CHUNK else self._chunk(rule, _CHUNK)}{{{_CHUNK}}}")

    def _members(self, form: Schema) -> str:
        """The members in their order, of which the optional ones may be left out."""
        other = self._other(form)
        if not form["properties"]:
            return self._only_others(other, form)
        further = "" if other is None else f"({_COMMA} {other})*"
        none_yet = "" if other is None else f"{other} {further}"
        if not form.get("minProperties"):
            none_yet = f"({none_yet})?" if none_yet else '""'
        for name, schema in reversed(form["properties"].items()):
            rule = self._named(self._member(name, schema))
            some = f"{rule} {further}"
            if name in form["required"]:
                none_yet, further = some, f"{_COMMA} {some}"
            else:
                none_yet = f"({some} | {none_yet})" if none_yet else some
                further = f"({_COMMA} {rule})? {self._named(further)}" if further else f"({_COMMA} {rule})?"
        return none_yet

    def _only_others(self, other: str | None, form: Schema) -> str:
        most = form.get("maxProperties")
        if other is None or most == 0:
            return '""'
        more = self._repeated(self._named(f"{_COMMA} {other}"), 0, None if most is None else most - 1)
        return f"{other} {more}" if form.get("minProperties") else f"({other} {more})?"

    def _member(self, name: str, schema: Schema) -> str:
        return f'{quoted(_json(name))} space ":" space {self._rule(schema)}'

    def _other(self, form: Schema) -> str | None:
        """The GBNF of a member that the schema does not name; None if it permits none."""
        others = form["additionalProperties"]
        if others is False:
            return None
        return self._named(f'{self._key(form)} ":" space {self._rule(others)}')

    def _key(self, form: Schema) -> str:
        if "keys" in form:
            return self._rule(form["keys"])
        taken = [_json(name)[1:-1] for name in form["taken"]]
        return f'"\\"" {none_of(taken) if taken else "char*"} "\\"" space'


def _number(form: Schema) -> str:
    if form["type"] == "integer":
        return integers(int(form["minimum"]), int(form["maximum"]))
    return decimals(form["minimum"], form["maximum"])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
