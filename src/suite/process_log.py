"""What a process says about its work on stderr: one event a line, as JSON or for people to read (ADR 66)::

    log_to_stderr("json")
    logging.getLogger("suite.node").warning("node %s is lost", name)

A line has the ids of the trace in which it was logged, so that it is found from the trace, and the trace from
it. It has no credential (`suite.redaction`), and of an unforeseen exception only the type and the places: its
message may quote what a client has sent. With ``SUITE_DEBUG`` the messages are there too.

A model's process always writes JSON lines, which its node reads (`Entry.of_line`) and logs again in its own
format.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Self

import msgspec

from suite.errors import SuiteError
from suite.redaction import redacted

if TYPE_CHECKING:
    from suite.config import LogFormat

DEBUG_VARIABLE: Final = "SUITE_DEBUG"
"""When set, messages of unforeseen exceptions are logged."""

_HARMLESS: Final = (SuiteError, OSError)
"""The exceptions whose messages are made by the suite or the system, and quote no client."""
_QUIET: Final = ("watchfiles", "uvicorn")
"""Libraries that tell at INFO what the suite tells itself."""
_CONTROLS: Final = (*range(9), *range(10, 0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
"""Characters, other than the tabulator, that would begin a new line, or control a terminal."""
_ESCAPES: Final = {code: chr(code).encode("unicode_escape").decode() for code in _CONTROLS}
_JSON_ESCAPES: Final = {code: f"\\u{code:04x}" for code in _CONTROLS}

_is_place = re.compile(r".+:\d+ in .+").fullmatch
"""As `_lines` writes a place."""

logger = logging.getLogger("suite")
_of_models = logging.getLogger("suite.actor")


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One logged event, as a JSON line has it."""

    time: datetime
    level: str
    logger: str
    message: str
    model_id: str = ""
    """The model whose process has logged it; empty: another process has."""
    exception: str = ""
    """What was raised, and where: a line for each place, then the type."""
    trace_id: str = ""
    span_id: str = ""

    @classmethod
    def of(cls, record: logging.LogRecord) -> Self:
        """What a record says."""
        trace_id, span_id = _trace_ids(record)
        return cls(
            time=datetime.fromtimestamp(record.created, UTC),
            level=record.levelname.lower(),
            logger=record.name,
            message=_said(_message(record)),
            model_id=getattr(record, "model_id", ""),
            exception=_said(_exception(record)),
            trace_id=trace_id,
            span_id=span_id,
        )

    @property
    def raised(self) -> tuple[str, str]:
        """The type of what was raised, and the place.

        Without the message, which may quote a client: with SUITE_DEBUG it is in `exception`.
        """
        lines = ["", *self.exception.splitlines()]
        for place, said in reversed([*pairwise(lines)]):
            if _is_place(place):
                return said.partition(":")[0], place
        return lines[-1].partition(":")[0], ""

    @classmethod
    def of_line(cls, line: bytes) -> Entry | None:
        """The event of a JSON line; None if the line is none."""
        try:
            return _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def log_again(self, model_id: str) -> None:
        """Log it in this process: the process of a model has said it.

        That process is not trusted: nothing that it says raises, or makes a logger, which would stay.
        """
        target = _of_models
        level = logging.getLevelNamesMapping().get(self.level.upper(), logging.INFO)
        if not target.isEnabledFor(level):
            return
        record = target.makeRecord(self.logger, level, "", 0, "%s", (self.message,), None)
        if (said := _seconds(self.time)) is not None:
            record.created, record.msecs = said, said % 1 * 1000
        record.exc_text = self.exception or None
        record.model_id, record.trace_id, record.span_id = model_id, self.trace_id, self.span_id
        target.handle(record)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


class JsonLines(logging.Formatter):
    """Writes an `Entry` as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return _encode(Entry.of(record)).decode().translate(_JSON_ESCAPES)


class TextLines(logging.Formatter):
    """Writes an `Entry` as text for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        entry = Entry.of(record)
        time = self.formatTime(record)
        model = f" [{entry.model_id}]" if entry.model_id else ""
        trace = f" (trace {entry.trace_id})" if entry.trace_id else ""
        raised = "".join(f" | {line.strip()}" for line in entry.exception.splitlines())
        text = f"{time} {entry.level.upper():7} {entry.logger}{model}: {entry.message}{trace}{raised}"
        return text.translate(_ESCAPES)


_FORMATTERS: Final = {"json": JsonLines, "text": TextLines}


def log_to_stderr(format: LogFormat) -> None:
    """Have this process log to stderr, one line an event, whatever logs: threads and warnings too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMATTERS[format]())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.raiseExceptions = False  # a line that cannot be written must not be told with its arguments
    logging.captureWarnings(True)
    threading.excepthook = _log_thread
    sys.unraisablehook = _log_unraisable
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def logs_json() -> bool:
    """Whether this process logs JSON to stderr, where nothing else may be written then."""
    return any(isinstance(each.formatter, JsonLines) for each in logging.getLogger().handlers)


def _log_thread(failed: threading.ExceptHookArgs) -> None:
    name = "?" if failed.thread is None else failed.thread.name
    logger.error("the thread %s failed", name, exc_info=failed.exc_value)


def _log_unraisable(failed: sys.UnraisableHookArgs) -> None:
    logger.error("%s", failed.err_msg or "an exception could not be raised", exc_info=failed.exc_value)


def _seconds(time: datetime) -> float | None:
    """A time in seconds since 1970; None if it cannot be one of this system's."""
    try:
        seconds = time.timestamp()
        datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return seconds


def _message(record: logging.LogRecord) -> str:
    """What a record says. Libraries repeat an exception behind the first line, asyncio for one."""
    message = record.getMessage()
    is_foreign = record.name.partition(".")[0] != "suite"
    if is_foreign and record.exc_info and not os.environ.get(DEBUG_VARIABLE):
        return message.partition("\n")[0]
    return message


def _said(text: str) -> str:
    """The text without credentials, as UTF-8 can write it: names of files may be none."""
    return redacted(text.encode(errors="backslashreplace").decode())


def _trace_ids(record: logging.LogRecord) -> tuple[str, str]:
    """The ids of the trace and the span in which something was logged; empty outside of any."""
    if hasattr(record, "trace_id"):
        return record.trace_id, record.span_id  # type: ignore[attr-defined]
    from suite import telemetry  # a model's process starts sooner without it

    return telemetry.trace_ids() or ("", "")


def _exception(record: logging.LogRecord) -> str:
    if record.exc_info and record.exc_info[1] is not None:
        return "\n".join(_lines(record.exc_info[1], with_messages=bool(os.environ.get(DEBUG_VARIABLE))))
    return record.exc_text or ""


def _lines(error: BaseException, *, with_messages: bool) -> Iterator[str]:
    """What was raised, behind what has caused it."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield from _lines(cause, with_messages=with_messages)
        yield "and then:"
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"{frame.filename}:{frame.lineno} in {frame.name}"
    yield _name(error, with_message=with_messages or isinstance(error, _HARMLESS))
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield "one of them:"
            yield from _lines(each, with_messages=with_messages)


def _name(error: BaseException, *, with_message: bool) -> str:
    name = type(error).__qualname__
    text = str(error) if with_message else ""
    return f"{name}: {text}" if text else name
