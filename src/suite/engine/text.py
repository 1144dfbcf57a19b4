"""Turns the bytes of tokens into text to show: whole characters only, and no part of a stop string.

A token may end inside a UTF-8 character or inside a stop string. Such text is held back until the next token
shows what it is::

    stream = TextStream(["\\n\\n"])
    stream.push(b"one\\n")   -> "one"       # the line end may begin the stop string
    stream.push(b"two")      -> "\\ntwo"
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from suite.engine.backend import Tokenizer


class TextStream:
    """The text of one generation as it grows. The result is the same however the bytes are split."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stop_text: str | None = None
        """The stop string that was found; the text ends before it, and later bytes are ignored."""
        self.hidden = b""
        """The bytes from the stop string on, which are not part of the text."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self.stop_text is not None

    def push(self, data: bytes) -> str:
        """Add bytes; return the text that is certain by now, which is often empty."""
        return self._advance(self._decoder.decode(data))

    def finish(self) -> str:
        """End the text; return what was held back, with U+FFFD for an incomplete character."""
        text = self._advance(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + held

    def _advance(self, text: str) -> str:
        if self.stopped:
            return ""
        if not self._stops:
            return text
        held = self._held + text
        ends = [(at + len(stop), at, stop) for stop in self._stops if (at := held.find(stop)) >= 0]
        if ends:
            # The stop string that is complete first, as if the characters had come one by one.
            _, at, self.stop_text = min(ends)
            self._held = ""
            self.hidden = held[at:].encode() + self._decoder.getstate()[0]
            return held[:at]
        keep = max(_overlap(held, stop) for stop in self._stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]


def visible_tokens(
    answer: Sequence[int], hidden: bytes, vocabulary: Tokenizer
) -> tuple[int, list[int]] | None:
    """The tokens of an answer without the bytes that a stop string hid at its end.

    Returns how many of its tokens stay as they are, and the tokens of the rest, where the stop string began
    inside a token. None if the vocabulary has no tokens for that rest.
    """
    kept, cut = len(answer), b""
    while kept and len(cut) < len(hidden):
        kept -= 1
        cut = vocabulary.visible_bytes(answer[kept]) + cut
    shown = cut.removesuffix(hidden)
    if len(shown) + len(hidden) != len(cut):  # bytes that are no characters were replaced
        return None
    rest = vocabulary.tokenize(shown.decode("utf-8", "replace"), begins=False) if shown else []
    return (kept, rest) if b"".join(map(vocabulary.visible_bytes, rest)) == shown else None


def _overlap(text: str, stop: str) -> int:
    """The length of the longest suffix of `text` that is a prefix of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
