"""Takes the answer of a web server apart, as its bytes come, by httptools::

answer = HttpAnswer()
while not answer.is_whole:
    answer.feed(await stream.receive())   # and `answer.end()` at the end of the connection
answer.status, answer.header("location"), answer.body
"""

from __future__ import annotations

from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MOST_HEAD_BYTES: Final = 64 << 10
"""The most that an answer may have before its body. With all that comes between the chunks of the body and
after them, it may have as many bytes more as the body has."""

_OK: Final = 200
_SAYING_LENGTH: Final = frozenset({b"content-length", b"transfer-encoding"})
"""The headers with which the end of an answer is not that of its connection."""


class HttpAnswer:
    """One answer as it comes. Its methods with ``on_`` are called by httptools."""

    def __init__(self) -> None:
        self.status = 0
        """0 until the head is there."""
        self.body = bytearray()
        self.is_whole = False
        self._headers: dict[bytes, bytes] = {}
        self._bytes = 0
        self._parser = HttpResponseParser(self)

    def header(self, name: str) -> str:
        """A header in lower case letters as far as that is ASCII; empty if there is none."""
        return self._headers.get(name.encode(), b"").decode("latin-1").strip()

    @property
    def announced_bytes(self) -> int:
        """How long the body is to be, as far as the head says it."""
        told = self.header("content-length")
        return int(told) if self.status == _OK and told.isdecimal() else 0

    def feed(self, data: bytes) -> None:
        """Take what has come. Raises ValueError for what no web server sends."""
        self._bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            if not self.is_whole:  # what follows the end is of no use
                raise ValueError("that is no HTTP") from None
        besides = self._bytes - len(self.body)
        if not self.is_whole and besides > MOST_HEAD_BYTES + len(self.body):
            what = "what it has besides its body" if self.status else "its head"
            raise ValueError(f"{what} has more than {MOST_HEAD_BYTES} bytes")

    def end(self) -> None:
        """Take notice that nothing more comes. Raises ValueError if something is missing."""
        if not self.status or not self._headers.keys().isdisjoint(_SAYING_LENGTH):
            raise ValueError("the connection ended before the answer did")
        self.is_whole = True

    def on_message_begin(self) -> None:
        """An answer begins, perhaps after one that only said that it would come."""
        if not self.is_whole:
            self._headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; of several with a name, the last one."""
        if not self.is_whole:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is there. Those below 200 only say that an answer will come."""
        status = self._parser.get_status_code()
        if not self.is_whole and status >= _OK:
            self.status = status

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        if not self.is_whole:
            self.body += body

    def on_message_complete(self) -> None:
        """The answer is whole, and what may follow it is of no use."""
        self.is_whole = self.is_whole or bool(self.status)
