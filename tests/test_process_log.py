"""One event is one line of the log, in either form, and no line tells a secret."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import context, propagate

from suite.errors import Unavailable
from suite.process_log import Entry, JsonLines, TextLines
from suite.redaction import redacted

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "Swordfish-1961"
FORMS: list[logging.Formatter] = [JsonLines(), TextLines()]
either_form = pytest.mark.parametrize("form", FORMS, ids=["json", "text"])


def record(message: str, *args: object, error: Exception | None = None) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("suite.node", logging.WARNING, "", 0, message, args, exc_info)


def raised(error: Exception) -> Exception:
    """The error with the places where it was raised."""
    try:
        raise error
    except Exception as raised:
        return raised


@contextmanager
def within_trace() -> Iterator[None]:
    token = context.attach(propagate.extract({"traceparent": f"00-{TRACE}-{SPAN}-01"}))
    try:
        yield
    finally:
        context.detach(token)


@either_form
@given(message=st.text(st.characters(exclude_categories=())))
def test_whatever_is_logged_is_one_line(form: logging.Formatter, message: str) -> None:
    line = form.format(record("%s", message, error=raised(Unavailable(message))))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


def test_a_line_of_json_has_all_of_the_event() -> None:
    with within_trace():
        line = JsonLines().format(record("node %s is lost", "box1", error=raised(Unavailable("NATS went"))))
    entry = json.loads(line)
    assert datetime.fromisoformat(entry["time"]).tzinfo is not None
    assert (entry["level"], entry["logger"]) == ("warning", "suite.node")
    assert entry["message"] == "node box1 is lost"
    assert (entry["trace_id"], entry["span_id"]) == (TRACE, SPAN)
    assert "in raised\n" in entry["exception"]
    assert entry["exception"].endswith("Unavailable: NATS went")


def test_outside_of_a_trace_a_line_has_none() -> None:
    assert json.loads(JsonLines().format(record("on"))).keys() == {"time", "level", "logger", "message"}


def test_people_read_the_trace_and_the_exception_behind_the_message() -> None:
    with within_trace():
        line = TextLines().format(record("it failed", error=raised(Unavailable("NATS went"))))
    assert f" WARNING suite.node: it failed (trace {TRACE}) | " in line
    assert line.endswith(" | Unavailable: NATS went")


@either_form
def test_an_unforeseen_exception_tells_where_and_not_what(
    form: logging.Formatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUITE_DEBUG", raising=False)
    error = raised(ExceptionGroup(SECRET, [raised(KeyError(SECRET))]))
    error.__cause__ = raised(ValueError(SECRET))
    line = form.format(record("it failed", error=error))
    assert SECRET not in line
    assert all(name in line for name in ("ExceptionGroup", "KeyError", "ValueError", "test_process_log.py"))
    monkeypatch.setenv("SUITE_DEBUG", "1")
    assert line.count(SECRET) == 0
    assert form.format(record("it failed", error=error)).count(SECRET) == 3


@either_form
def test_a_library_that_repeats_an_exception_tells_its_first_line(
    form: logging.Formatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUITE_DEBUG", raising=False)
    error = raised(ValueError(SECRET))
    told = record("Task exception was never retrieved\nfuture: <Task exception=%r>", error, error=error)
    told.name = "asyncio"
    line = form.format(told)
    assert "Task exception was never retrieved" in line
    assert SECRET not in line


@pytest.mark.parametrize(
    "text",
    [
        f"nats://suite:{SECRET}@nats.example:4222 refused",
        f"tls://{SECRET}@a:4222,nats://x:{SECRET}@b",
        f"Authorization: Bearer {SECRET}",
        f"authorization: basic {SECRET}",
        f"the key sk-suite-{SECRET} is worth nothing",
        f"GET https://hub.example/file?token={SECRET}&x=1",
        f"SUITE_NATS_PASSWORD={SECRET}",
        f'{{"user": "suite", "password": "{SECRET}"}}',
        f"{{'nats_password': '{SECRET}'}}",
        f"nats://suite:p@{SECRET}@nats.example:4222 refused",
        f"nats://suite:{SECRET}@@nats.example:4222",
        f"nats_password: {SECRET}",
        f"suite serve --nats-password {SECRET} --json",
        f"x-api-key: {SECRET}",
        f'{{"x-api-key":"{SECRET}"}}',
        f"Authorization: Token {SECRET}",
        f"authorization: {SECRET}",
        f"HF_TOKEN={SECRET}",
    ],
)
@either_form
def test_a_credential_in_a_text_of_others_is_hidden(form: logging.Formatter, text: str) -> None:
    assert SECRET not in form.format(record("it says: %s", text))
    assert SECRET not in form.format(record("it says", error=raised(OSError(text))))


@pytest.mark.parametrize(
    "token",
    [
        "hf_" + "aB3" * 12,
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.eyJqdGkiOiJTRUNSRVQifQ.c2lnbmF0dXJl-_x",
        "SU" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" + "A" * 24,
    ],
)
def test_a_credential_is_known_by_its_form(token: str) -> None:
    assert token not in redacted(f"it says {token}.")
    assert token[8:] not in redacted(token)


@pytest.mark.parametrize(
    "text",
    [
        "33 tokens in 2.0 s; token budget: 5; http://127.0.0.1:8080/v1; mail me at a@b.example",
        "its password is wrong or was changed: rotate it with `suite credentials rotate`",
        "basic facts, bearer of news, task-suite",
        "eos_token: 2, unexpected token: }, hf_transfer is missing, give --nats-user",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redacted(text) == text


REPEATED = [
    "x",
    "x:",
    "//",
    "'",
    '"',
    "bearer ",
    "a://",
    "password",
    "sk-",
    "@",
    " ",
    "=x",
    "--",
    "-eyJ",
    "eyJ",
    "hf_",
    "SA",
    "x@",
    "password ",
    "authorization",
    "authorization: x ",
]


@pytest.mark.parametrize("part", REPEATED)
def test_a_long_text_is_looked_through_in_one_go(part: str) -> None:
    assert redacted(part * 50_000), "a pattern that goes back would take minutes"


def test_a_node_logs_what_its_models_process_has_logged(caplog: pytest.LogCaptureFixture) -> None:
    with within_trace():
        line = JsonLines().format(record("the load failed", error=raised(Unavailable("NATS went"))))
    entry = Entry.of_line(line.encode())
    assert entry is not None
    entry.log_again("tiny")
    (again,) = caplog.records
    told = msgspec.json.decode(JsonLines().format(again), type=Entry)
    assert told == msgspec.structs.replace(entry, model_id="tiny")
    text = TextLines().format(again)
    assert " WARNING suite.node [tiny]: the load failed" in text
    assert TRACE in text
    assert "Unavailable: NATS went" in text


@pytest.mark.parametrize("line", [b"", b"GGML_ASSERT failed", b'{"name": "a span"}', b"\xff", b"[1]"])
def test_what_a_library_has_written_is_no_entry(line: bytes) -> None:
    assert Entry.of_line(line) is None


def line_of_a_model(**fields: str) -> bytes:
    said = {"time": "2026-11-29T12:00:00Z", "level": "error", "logger": "suite.engine", "message": "m"}
    return msgspec.json.encode({**said, **fields})


@pytest.mark.parametrize(
    "time",
    [
        "0001-01-01T00:00:00",
        "0001-01-01T00:00:00+23:00",
        "9999-12-31T23:59:59-23:00",
        "9999-12-31T23:59:59.999999Z",
    ],
)
def test_a_time_that_cannot_be_is_now(caplog: pytest.LogCaptureFixture, time: str) -> None:
    entry = Entry.of_line(line_of_a_model(time=time))
    assert entry is not None
    entry.log_again("tiny")
    assert Entry.of(caplog.records[0]).time.year not in (1, 9999)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(Entry.__struct_fields__, st.text())))
def test_whatever_a_model_says_is_logged_or_no_entry(fields: dict[str, str]) -> None:
    entry = Entry.of_line(line_of_a_model(**fields))
    if entry is not None:
        entry.log_again("tiny")


def test_a_line_nested_without_end_is_no_entry() -> None:
    assert Entry.of_line(b'{"x": ' + b"[" * 60_000) is None


def test_the_names_that_a_model_gives_make_no_loggers() -> None:
    known = {*logging.root.manager.loggerDict}
    for number in range(3):
        entry = Entry.of_line(line_of_a_model(logger=f"suite.made.up.{number}"))
        assert entry is not None
        entry.log_again("tiny")
    assert {*logging.root.manager.loggerDict} == known


PROGRAM = """
import logging, sys, threading, warnings
from suite.process_log import log_to_stderr

class Odd:
    def __del__(self): raise ValueError("secret")
    def __str__(self): raise ValueError("secret")

log_to_stderr("json")
thread = threading.Thread(target=lambda: int("secret"), name="reader")
thread.start()
thread.join()
Odd()
warnings.warn("old")
logging.getLogger("suite").error("%s", Odd())
"""


def test_threads_destructors_warnings_and_broken_arguments_are_lines_too() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    entries = [json.loads(line) for line in ran.stderr.splitlines()]
    assert "secret" not in ran.stderr
    assert [each["level"] for each in entries][:3] == ["error", "error", "warning"]
    assert "reader" in entries[0]["message"]
    assert entries[0]["exception"].endswith("ValueError")
