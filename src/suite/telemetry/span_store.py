"""The spans that a machine keeps, for ``suite trace``: two files of lines, of which the older one goes.

Every process of a node, and a gateway, appends to the same file under a lock, many spans at a time. When the
file has its size it becomes the old one, in place of the one before it.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from suite.errors import InvalidRequest
from suite.messages.actions.traces import LEAST_CHARACTERS, KeptSpan

CURRENT: Final = "spans.jsonl"
OLD: Final = "spans.old.jsonl"
LOCK_SECONDS: Final = 5.0
"""How long others may hold the lock, which takes milliseconds: a process that was taken over may keep it."""
_POLL_SECONDS: Final = 0.01


class SpanStore:
    """The spans that are kept in one directory, which may be gone or empty."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._current, self._old = directory / CURRENT, directory / OLD
        self._max_bytes = max_bytes
        self._encode = msgspec.json.Encoder(enc_hook=str).encode

    def append(self, spans: Iterable[KeptSpan]) -> None:
        """Keep spans. Raises OSError if they cannot be written, or another process writes for too long."""
        lines = b"".join([self._encode(span) + b"\n" for span in spans])
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The lock is on a file of its own: the one with the spans is renamed.
        with _opened(self._directory / "lock") as lock:
            _lock(lock)
            with _opened(self._current) as file:
                if os.fstat(file).st_size + len(lines) <= self._max_bytes // 2:
                    _write(file, lines)
                    return
            self._current.replace(self._old)
            with _opened(self._current) as file:
                _write(file, lines[-(self._max_bytes // 2) :])

    def trace(self, trace_id: str) -> tuple[list[KeptSpan], list[KeptSpan]]:
        """The spans of a trace, and those of other traces that are linked to it. Raises OSError."""
        found = list(self._read(containing=trace_id.encode()))
        own = [span for span in found if span.trace_id == trace_id]
        linked = [
            span
            for span in found
            if span.trace_id != trace_id and any(link.trace_id == trace_id for link in span.links)
        ]
        return own, linked

    def meant(self, id: str) -> str | None:
        """The trace with this id or beginning, or of which a span has this attribute; None: none is kept.

        Raises InvalidRequest if several begin like this, or if it is too short, and OSError.
        """
        if re.fullmatch(r"[0-9a-f]{32}", id):
            return id
        if len(id) < LEAST_CHARACTERS:
            raise InvalidRequest(f"a trace's id needs {LEAST_CHARACTERS} characters at least")
        if re.fullmatch(r"[0-9a-f]+", id):
            begun = {span.trace_id for span in self.traces() if span.trace_id.startswith(id)}
            if len(begun) > 1:
                raise InvalidRequest(f"{len(begun)} traces begin with {id}: type more of it")
            if begun:
                return begun.pop()
        return self.trace_with(id)

    def trace_with(self, value: str) -> str | None:
        """The newest trace of which a span has an attribute of this value; None if there is none."""
        found = [span for span in self._read(containing=value.encode()) if value in span.attributes.values()]
        return max(found, key=lambda span: span.start_ns).trace_id if found else None

    def traces(self) -> list[KeptSpan]:
        """Each trace as one span: its first one, with the end of its last and an error of any.

        The newest trace is the last. Raises OSError.
        """
        traces: dict[str, KeptSpan] = {}
        for span in self._read():
            other = traces.get(span.trace_id, span)
            first = span if span.start_ns < other.start_ns else other
            traces[span.trace_id] = msgspec.structs.replace(
                first, end_ns=max(span.end_ns, other.end_ns), error=first.error or other.error or span.error
            )
        return sorted(traces.values(), key=lambda span: span.start_ns)

    def _read(self, containing: bytes = b"") -> Iterator[KeptSpan]:
        decode = msgspec.json.Decoder(KeptSpan).decode
        for path in (self._old, self._current):
            with suppress(FileNotFoundError), path.open("rb") as file:
                for line in file:
                    if containing in line:
                        with suppress(msgspec.MsgspecError):  # a line that was cut by a full disk
                            yield decode(line)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A file that is opened to append to, as a descriptor."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise TimeoutError("another process holds the lock") from None
        time.sleep(_POLL_SECONDS)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
