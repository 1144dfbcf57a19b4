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


class TextStream:
    """The text of one generation as it grows. The result is the same however the bytes are split."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False
        """Whether a stop string was found; the text ends before it, and later bytes are ignored."""

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
        ends = [(at + len(stop), at) for stop in self._stops if (at := held.find(stop)) >= 0]
        if ends:
            # The stop string that is complete first, as if the characters had come one by one.
            self.stopped, self._held = True, ""
            return held[: min(ends)[1]]
        keep = max(_overlap(held, stop) for stop in self._stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest suffix of `text` that is a prefix of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
