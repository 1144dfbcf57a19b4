"""The text of an answer that may have tool calls in it, while it comes.

The pieces of a stream have calls as the model wrote them; only the whole reply has them as calls. So the text
is held back from where a call may begin.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

_MARKERS: Final = ("<tool_call>", "<function=", "[TOOL_CALLS]", "<|python_tag|>", "<|tool_call|>")
"""What calls begin with, wherever they stand."""
_BARE: Final = ("{", "[", "<", "`")
"""What a call without a marker begins with, if the whole answer is calls."""
_LONGEST: Final = max(map(len, _MARKERS))


class TextBeforeCalls:
    """Lets the text of an answer through up to where a tool call may begin."""

    def __init__(self, names: Collection[str]) -> None:
        """``names`` are the functions that may be called; none: the text has no calls."""
        self._names = names
        self._sent = ""
        self._held = ""
        self._is_holding = False

    def feed(self, text: str) -> str:
        """Take the next piece; returns what can be sent now."""
        if not self._names:
            return text
        self._held += text
        if self._is_holding:
            return ""
        sendable = self._sendable()
        self._sent += self._held[:sendable]
        text, self._held = self._held[:sendable], self._held[sendable:]
        return text

    def rest(self, whole: str | None) -> str:
        """What is still to be sent at the end. ``whole``: the text beside the calls; None: there are none."""
        if whole is None:
            return self._held
        return whole.removeprefix(self._sent.strip()) if self._sent.strip() else whole

    def _sendable(self) -> int:
        """How much of what is held cannot be part of a call."""
        if not self._sent.strip():
            beginning = self._held.lstrip()
            if beginning.startswith((*_BARE, *self._names)):
                self._is_holding = True
                return 0
            if any(name.startswith(beginning) for name in self._names):
                return 0
        marker = min((at for each in _MARKERS if (at := self._held.find(each)) >= 0), default=-1)
        if marker >= 0:
            self._is_holding = True
            return marker
        return len(self._held) - _possible_beginning(self._held)


def _possible_beginning(text: str) -> int:
    """How many characters at the end of a text may be the beginning of a marker."""
    for length in range(min(_LONGEST - 1, len(text)), 0, -1):
        if any(each.startswith(text[-length:]) for each in _MARKERS):
            return length
    return 0
