"""Writes the grammar of a schema in the simple forms (`suite.engine.schema.tree`), in llama.cpp's GBNF.

As in llama.cpp's own converter, one space at most may follow each part of the JSON, because a model could
generate spaces for ever, and members come in the schema's order, the required ones first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import TypeAlias

from suite.engine.schema.tree import Schema

_Node: TypeAlias = dict[str, "_Node"]
"""A node of a prefix tree of names: the subtree for each next character."""

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
_ESCAPES = {sign: f"\\{sign}" if sign in '"\\' else sign for sign in '"\\bfnrt'}
"""The characters that may follow a backslash in a key, and how GBNF writes them in brackets."""
_END = ""


def write_grammar(root: Schema, definitions: Mapping[str, Schema]) -> str:
    """Write the GBNF of a schema; `definitions` must have all its references."""
    writer = _Writer(definitions)
    first = writer.rule(root)
    rules = {"root": first, **_RULES, **writer.rules}
    return "\n".join(f"{name} ::= {content}" for name, content in rules.items())


class _Writer:
    """Writes the rules of forms, each rule once."""

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self.rules: dict[str, str] = {}
        self._definitions = definitions
        self._names: dict[str, str] = {}
        """Names of rules by their content; names of definitions by their references."""

    def rule(self, form: Schema) -> str:
        """The name of the rule for a form."""
        if (reference := form.get("$ref")) is not None:
            return self._definition(reference)
        if "anyOf" in form:
            return self._named(" | ".join(self.rule(part) for part in form["anyOf"]))
        if "enum" in form:
            return self._named(f"({' | '.join(_literal(value) for value in form['enum'])}) space")
        if "properties" in form:
            return self._named(f'"{{" space {self._members(form)} "}}" space')
        if "prefixItems" in form:
            items = f" {_COMMA} ".join(self.rule(item) for item in form["prefixItems"])
            return self._named(f'"[" space {items} "]" space')
        if "items" in form:
            return self._named(f'"[" space {self._items(form)} "]" space')
        if "pattern" in form:
            return self._named(f'"\\"" ({form["pattern"]}) "\\"" space')
        if "minLength" in form or "maxLength" in form:
            characters = self._repeated("char", form.get("minLength", 0), form.get("maxLength"))
            return self._named(f'"\\"" {characters} "\\"" space')
        name = str(form.get("format", form["type"]))
        return "uuid" if name.startswith("uuid") else name

    def _named(self, content: str) -> str:
        return self._add(content, content)

    def _definition(self, reference: str) -> str:
        if reference not in self._names:
            name = self._add(reference, "")
            self.rules[name] = self.rule(self._definitions[reference])
        return self._names[reference]

    def _add(self, key: str, content: str) -> str:
        if key not in self._names:
            name = self._names[key] = f"rule{len(self._names)}"
            self.rules[name] = content
        return self._names[key]

    def _items(self, form: Schema) -> str:
        item, least, most = self.rule(form["items"]), form.get("minItems", 0), form.get("maxItems")
        if most == 0:
            return '""'
        further = self._named(f"{_COMMA} {item}")
        more = self._repeated(further, max(least - 1, 0), None if most is None else most - 1)
        return f"{item} {more}" if least else f"({item} {more})?"

    def _repeated(self, rule: str, least: int, most: int | None) -> str:
        if max(least, most or 0) <= _COUNTED:
            return f"{rule}{{{least},{'' if most is None else most}}}"
        chunk = self._named(f"{rule}{{{_CHUNK}}}")
        needed = f"{chunk}{{{least // _CHUNK}}} {rule}{{{least % _CHUNK}}}"
        if most is None:
            return f"{needed} {rule}*"
        chunks = max((most - least) // _CHUNK - 1, 0)
        return f"{needed} {chunk}{{0,{chunks}}} {rule}{{0,{most - least - chunks * _CHUNK}}}"

    def _members(self, form: Schema) -> str:
        properties = form["properties"]
        members = {name: self._named(self._member(name, schema)) for name, schema in properties.items()}
        required = [rule for name, rule in members.items() if name in form["required"]]
        optional = [rule for name, rule in members.items() if name not in form["required"]]
        other = self._other(form)
        others = "" if other is None else f"({_COMMA} {other})*"
        if required:
            further = [f"({_COMMA} {rule})?" for rule in optional]
            return " ".join([f" {_COMMA} ".join(required), *further, others])
        beginnings = [] if other is None else [f"{other} {others}"]
        rest = others
        for rule in reversed(optional):
            beginnings.insert(0, f"{rule} {rest}")
            rest = self._named(f"({_COMMA} {rule})? {rest}")
        return f"({' | '.join(beginnings)})?" if beginnings else '""'

    def _member(self, name: str, schema: Schema) -> str:
        return f'{_literal(name)} space ":" space {self.rule(schema)}'

    def _other(self, form: Schema) -> str | None:
        """The GBNF of a member that the schema does not name; None if it permits none."""
        others = form["additionalProperties"]
        if others is False:
            return None
        taken = [json.dumps(name, ensure_ascii=False)[1:-1] for name in form["taken"]]
        key = _excluding(taken) if taken else "char*"
        return self._named(f'"\\"" {key} "\\"" space ":" space {self.rule(others)}')


def _literal(value: object) -> str:
    return _quoted(json.dumps(value, ensure_ascii=False))


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _excluding(names: Collection[str]) -> str:
    """The GBNF of the text between the quotes of a key that is none of these names (given as JSON text)."""
    tree: _Node = {}
    for name in names:
        node = tree
        for unit in re.findall(r"\\.|[^\\]", name):
            node = node.setdefault(unit, {})
        node[_END] = {}
    return _excluding_below(tree)


def _excluding_below(node: _Node) -> str:
    further = {unit: child for unit, child in node.items() if unit != _END}
    if not further:
        return "plain+"
    raw = "".join(f"\\U{ord(unit):08X}" for unit in further if len(unit) == 1)
    escapes = "".join(
        f"\\{sign}" if sign in '"\\' else sign for sign in _ESCAPES if f"\\{sign}" not in further
    )
    alternatives = [f'[^"\\\\\\x7F\\x00-\\x1F{raw}] plain*']
    if escapes:
        alternatives.append(f'"\\\\" [{escapes}] plain*')
    alternatives += [f"{_quoted(unit)} {_excluding_below(child)}" for unit, child in further.items()]
    if _END not in node:
        alternatives.append('""')
    return f"({' | '.join(alternatives)})"
