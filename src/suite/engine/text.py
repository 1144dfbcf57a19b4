"""From the bytes of tokens to text that can be shown: whole characters only, and nothing of a stop string.

A token may end inside a UTF-8 character or inside a stop string, so some of the text is held back until
what follows decides::

    stream = TextStream(["\\n\\n"])
    stream.push(b"one\\n")   -> "one"       # the line end may begin the stop string
    stream.push(b"two")      -> "\\ntwo"
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Text of one generation as it grows. However the bytes are cut, the text that comes out is the same."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False
        """True once a stop string has been seen; the text ended before it and nothing follows."""

    def push(self, data: bytes) -> str:
        """The text that these bytes settle, often empty."""
        return self._advance(self._decoder.decode(data))

    def finish(self) -> str:
        """What was held back, at the end of the generation; a character that never became whole is U+FFFD."""
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
    """The length of the longest end of `text` with which `stop` begins."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
