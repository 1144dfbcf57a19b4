"""GBNF of given texts: one of them, or none of them, as trees of their common beginnings.

A grammar's choice among many texts costs with each of them, at every token; of a tree only the branches of
one place count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

_Node: TypeAlias = dict[str, "_Node"]
"""A node of a prefix tree: the subtree for each next unit."""

_END = ""
_ESCAPES = {sign: f"\\{sign}" if sign in '"\\' else sign for sign in '"\\bfnrt'}
"""The characters that may follow a backslash in a key, and how GBNF writes them in brackets."""


def quoted(text: str) -> str:
    """A text as a literal of GBNF."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def one_of(texts: Iterable[str]) -> str:
    """The GBNF of one of these texts."""
    return _one_below(_tree(texts))


def none_of(names: Iterable[str]) -> str:
    """The GBNF of the text between the quotes of a key that is none of these names (given as JSON text)."""
    return _none_below(_tree(re.findall(r"\\.|[^\\]", name) for name in names))


def _tree(texts: Iterable[Iterable[str]]) -> _Node:
    root: _Node = {}
    for text in texts:
        node = root
        for unit in text:
            node = node.setdefault(unit, {})
        node[_END] = {}
    return root


def _one_below(node: _Node) -> str:
    alternatives = [_branch(unit, child) for unit, child in node.items()]
    return alternatives[0] if len(alternatives) == 1 else f"({' | '.join(alternatives)})"


def _branch(text: str, node: _Node) -> str:
    """A text up to where the tree branches, and what follows."""
    while len(node) == 1 and _END not in node:
        ((unit, node),) = node.items()
        text += unit
    return quoted(text) if node.keys() <= {_END} else f"{quoted(text)} {_one_below(node)}"


def _none_below(node: _Node) -> str:
    further = {unit: child for unit, child in node.items() if unit != _END}
    if not further:
        return "plain+"
    raw = "".join(f"\\U{ord(unit):08X}" for unit in further if len(unit) == 1)
    escapes = "".join(spelled for sign, spelled in _ESCAPES.items() if f"\\{sign}" not in further)
    alternatives = [f'[^"\\\\\\x7F\\x00-\\x1F{raw}] plain*']
    if escapes:
        alternatives.append(f'"\\\\" [{escapes}] plain*')
    alternatives += [f"{quoted(unit)} {_none_below(child)}" for unit, child in further.items()]
    if _END not in node:
        alternatives.append('""')
    return f"({' | '.join(alternatives)})"
