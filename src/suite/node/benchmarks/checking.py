"""Checks answers against what is right, in a process beside the node.

A regular expression may take for ever on an answer, and a schema much memory. So patterns and schemas are
tried in a process of anyio's. It is kept for the next answers, and the kernel ends it when it takes too much.
"""

from __future__ import annotations

import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.to_process
import msgspec

from suite.messages.benchmarks import NumberedQuestion, Question

CPU_SECONDS: Final = 1.0
"""The CPU time for one answer; real ones take a millisecond."""
PROBE_CPU_SECONDS: Final = 5.0
"""The CPU time to read all patterns and schemas of a set."""
ANSWER_SECONDS: Final = 30.0
"""The time limit for any answer of the process: the machine may be busy, and it may have to be started."""
MEMORY_BYTES: Final = 256 << 20
"""The memory that it may have beyond what it has at its start."""

_FENCE: Final = re.compile(r"\s*```[a-zA-Z]*\s*\n(.*?)\n\s*```\s*\Z", re.DOTALL)
_PROBLEM_CHARACTERS: Final = 200

T = TypeVar("T")


async def check(question: Question, answer: str) -> str | None:
    """Check an answer by all but a judge. Returns what is wrong with it; None if it passes."""
    if question.pattern is None and question.json_schema is None:
        return _compare(question, answer)
    try:
        return await _apart(_check, question, answer)
    except (anyio.BrokenWorkerProcess, TimeoutError):
        return f"it could not be checked within {CPU_SECONDS:g} s of CPU time and {MEMORY_BYTES >> 20} MiB"


async def problems(questions: tuple[NumberedQuestion, ...]) -> dict[int, str]:
    """What is wrong with patterns and schemas, by the lines of the questions that have them."""
    checked = [each for each in questions if each.question.pattern or each.question.json_schema is not None]
    if not checked:
        return {}
    try:
        return await _apart(_problems, checked)
    except (anyio.BrokenWorkerProcess, TimeoutError):
        return {each.line: "the patterns and schemas of the set take too long to read" for each in checked}


async def _apart(work: Callable[..., T], *arguments: Any) -> T:
    with anyio.fail_after(ANSWER_SECONDS):
        return await anyio.to_process.run_sync(work, *arguments, cancellable=True)


# --- in the process -----------------------------------------------------------------------------------------
# What reads schemas is imported there only: it is slow to import, and few sets need it.


def _problems(questions: list[NumberedQuestion]) -> dict[int, str]:
    import jsonschema  # noqa: F401 - before the limits

    with _limited(PROBE_CPU_SECONDS):
        found = {each.line: _problem(each.question) for each in questions}
    return {line: problem for line, problem in found.items() if problem is not None}


def _problem(question: Question) -> str | None:
    """What is wrong with the pattern or the schema of a question."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        if question.pattern is not None:
            re.compile(question.pattern)
        elif question.json_schema is not None:
            Draft202012Validator.check_schema(question.json_schema)
    except SchemaError as error:
        return f"json_schema: {error.message}"[:_PROBLEM_CHARACTERS]
    except Exception as error:
        return f"{'pattern' if question.pattern is not None else 'json_schema'}: {_told(error)}"
    return None


def _check(question: Question, answer: str) -> str | None:
    import jsonschema  # noqa: F401 - before the limits

    with _limited(CPU_SECONDS):
        try:
            return _compare(question, answer)
        except Exception as error:  # what can be read may still not be applied, or takes too much memory
            return f"it could not be checked: {_told(error)}"


def _told(error: Exception) -> str:
    """What an error of a pattern or a schema says; some, such as that of memory, say nothing themselves."""
    return (str(error) or type(error).__name__)[:_PROBLEM_CHARACTERS]


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Have the kernel end this process when it takes so much CPU time, or more memory than is allowed."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


# --- what is right ------------------------------------------------------------------------------------------


def _compare(question: Question, answer: str) -> str | None:
    text = answer.strip()
    if question.pattern is not None:
        flags = re.IGNORECASE if question.ignore_case else 0
        return None if re.search(question.pattern, text, flags) else "the pattern is not found in it"
    if question.json_schema is not None:
        return _schema_problem(question.json_schema, text)
    wanted = question.exact if question.exact is not None else question.contains or ""
    if question.ignore_case:
        text, wanted = text.casefold(), wanted.casefold()
    if question.exact is not None:
        return None if text == wanted else "it is another text"
    return None if wanted in text else "the text is not in it"


def _schema_problem(schema: dict[str, Any], text: str) -> str | None:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    fenced = _FENCE.match(text)
    try:
        value = msgspec.json.decode(fenced.group(1) if fenced else text)
    except msgspec.DecodeError:
        return "it is not JSON"
    except RecursionError:
        return "its JSON is nested too deeply"
    # An empty registry: nothing is fetched from anywhere.
    valid = Draft202012Validator(schema, registry=Registry()).is_valid(value)
    return None if valid else "the schema does not describe it"
