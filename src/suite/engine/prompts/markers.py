"""Keeps markers in messages text: only those that the chat template writes itself are control tokens.

A message may have the name of a control token in it, such as ``<|im_end|>``. In a rendered chat nobody could
tell it from the template's own. So before a chat is rendered, each such name in it is broken by a mark, a
character that occurs nowhere else::

    broken = markers.broken(messages)         # "<|im_end|>" becomes "<", mark, "|im_end|>"
    text = render(broken.messages)            # whatever name is whole now, is the template's own
    tokens = markers.tokens(text, broken.mark, begins=True)

Most chats have no markers, and go through as they are. A template may trim, split or compare what it is
given: it sees another text only where there is a marker in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from suite.engine.vocabulary import Vocabulary
from suite.errors import InvalidChat

_MARKS = range(0x10FF00, 0x10FFFE)
"""Characters for private use: the first one that a chat does not have breaks its markers."""
_HERMES = frozenset({"<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"})
"""The markers of calls and their answers that many models know, whatever their templates teach."""
_SAID = frozenset({"content", "reasoning_content", "reasoning", "thinking"})
"""The fields of an assistant's message that have what it wrote."""
_LOOKS_LIKE_A_MARKER = re.compile(r"[<\[]\S+[>\]]").fullmatch
_Tree: TypeAlias = "dict[str, _Tree]"
"""The names that begin alike, by their next character; an empty one ends a name."""
_NOTHING = re.compile(r"(?!)")


class Broken(NamedTuple):
    """Messages, tools and variables without a whole marker in them."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    mark: str | None
    """What breaks the markers; None: there are none."""
    variables: Mapping[str, Any] = {}


class Markers:
    """The markers of one model with one chat template."""

    def __init__(
        self, vocabulary: Vocabulary, template: str, reasoning: Collection[str] = (), calls: str = ""
    ) -> None:
        """`reasoning`: what stands around a model's reasoning, and `calls` around its calls of tools.

        An assistant's message may have both.
        """
        added = [name for name in vocabulary.added_tokens if name in template and _LOOKS_LIKE_A_MARKER(name)]
        self._vocabulary = vocabulary
        self._control = _any_of(vocabulary.control_tokens)
        spoken = {*reasoning, *_HERMES}
        turns = [name for name in added if name not in spoken and name not in calls]
        self._said = _any_of([*vocabulary.control_tokens, *turns])
        self._all = _any_of([*vocabulary.control_tokens, *added, *reasoning])
        self._added = added

    def broken(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]],
        variables: Mapping[str, Any] | None = None,
    ) -> Broken:
        """Break all markers in messages, tools and the variables of the template.

        What an assistant said may have the markers of its calls and its reasoning where they are no control
        tokens: some templates look for them. Raises InvalidChat if no character is left to break markers.
        """
        given = variables or {}
        if not any(map(self._all.search, _texts([messages, tools, given]))):
            return Broken(list(messages), list(tools), None, given)
        mark = _unused([messages, tools, given])
        return Broken(
            [self._broken_message(message, mark) for message in messages],
            [_changed(tool, self._all, mark) for tool in tools],
            mark,
            {name: _changed(value, self._all, mark) for name, value in given.items()},
        )

    def _broken_message(self, message: dict[str, Any], mark: str) -> dict[str, Any]:
        said = _SAID if message["role"] == "assistant" else ()
        return {
            name: _changed(value, self._said if name in said else self._all, mark)
            for name, value in message.items()
        }

    def tokens(self, text: str, mark: str | None, *, begins: bool) -> list[int]:
        """The tokens of a rendered chat whose markers were broken by `mark`."""
        text = text if mark is None else text.replace(_escaped(mark), mark)
        if mark is None or mark not in text:
            return self._vocabulary.tokenize(text, begins=begins)
        tokens: list[int] = []
        for stretch, is_plain in self._stretches(text, mark):
            if is_plain:
                for piece in self._pieces(stretch, mark):
                    tokens += self._vocabulary.tokenize(piece, begins=False, special=False)
            else:
                tokens += self._vocabulary.tokenize(stretch, begins=begins)
            begins = False
        return tokens

    def _stretches(self, text: str, mark: str) -> Iterator[tuple[str, bool]]:
        """The text in stretches, and whether all markers in each are text: those between control tokens."""
        start = 0
        before = after = None
        for found in [*self._control.finditer(text), None]:
            at = len(text) if found is None else found.start()
            after = None if found is None else found[0]
            begin = 0 if before is None else before.end()
            between = text[begin:at]
            if mark in between:
                yield text[start:begin], False
                yield self._stripped(between, None if before is None else before[0], after), True
                start = at
            before = found
        yield text[start:], False

    def _stripped(self, text: str, before: str | None, after: str | None) -> str:
        """A text without the white space that the control tokens around it take away."""
        ids, strips = self._vocabulary.control_tokens, self._vocabulary.strips
        if before is not None and strips(ids[before])[1]:
            text = text.lstrip()
        if after is not None and strips(ids[after])[0]:
            text = text.rstrip()
        return text

    def _pieces(self, text: str, mark: str) -> Iterator[str]:
        """A text as its sender wrote it, cut within the names of tokens that any text would have."""
        names = [f"{name[0]}{mark}{name[1:]}" for name in self._added]
        start = 0
        for found in _any_of(names).finditer(text):
            yield text[start : found.start() + 1].replace(mark, "")
            start = found.start() + 1
        yield text[start:].replace(mark, "")


def unmarked(text: str, mark: str | None) -> str:
    """A rendered chat as it would be without marks."""
    return text if mark is None else text.replace(mark, "").replace(_escaped(mark), "")


def _any_of(names: Collection[str]) -> re.Pattern[str]:
    """Finds any of these names, the longest first; those of one character cannot be broken, and are left."""
    tree: _Tree = {}
    for name in names:
        if len(name) > 1:
            below = tree
            for character in name:
                below = below.setdefault(character, {})
            below[""] = {}
    return re.compile(_pattern(tree)) if tree else _NOTHING


def _pattern(tree: _Tree) -> str:
    """The names of a tree as a regular expression: vocabularies have thousands that begin alike."""
    branches = [f"{re.escape(character)}{_pattern(below)}" for character, below in tree.items() if character]
    if not branches:
        return ""
    return f"(?:{'|'.join(branches)}){'?' if '' in tree else ''}"


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield name
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _unused(value: object) -> str:
    used = {character for text in _texts(value) for character in text if ord(character) >= _MARKS.start}
    mark = next((mark for mark in map(chr, _MARKS) if mark not in used), None)
    if mark is None:
        raise InvalidChat(
            "the chat has a marker of the model and all characters from U+10FF00 to U+10FFFD: leave one out"
        )
    return mark


def _changed(value: Any, names: re.Pattern[str], mark: str) -> Any:
    """The value with a mark in each of these names, wherever it has texts."""
    if isinstance(value, str):
        return _marked(value, names, mark)
    if isinstance(value, dict):
        return {_marked(name, names, mark): _changed(each, names, mark) for name, each in value.items()}
    if isinstance(value, list):
        return [_changed(each, names, mark) for each in value]
    return value


def _marked(text: str, names: re.Pattern[str], mark: str) -> str:
    while names.search(text):  # again for names that overlap
        text = names.sub(lambda found: found[0][0] + mark + found[0][1:], text)
    return text


def _escaped(mark: str) -> str:
    return json.dumps(mark)[1:-1]
