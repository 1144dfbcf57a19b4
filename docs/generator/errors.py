"""The reference of the errors: code, message, exit code, and who gets it."""

from __future__ import annotations

import inspect

from generator import causes
from generator.markdown import code, prose, table
from suite.cli.exit import exit_code
from suite.errors import error_classes

_INTRODUCTION = """\
# Errors

An error has a `code` that stays the same and a `message` that says what happened and what to do. Where it
appears:

- **A reply of NATS**: `{"status": "error", "code": ..., "message": ...}`, and the headers
  `Nats-Service-Error` (the message) and `Nats-Service-Error-Code` (a status as in HTTP).
- **Python**: an exception, a subclass of `suite.errors.SuiteError`.
- **The command line**: `error CODE: MESSAGE` on standard error, and an exit code.

The meaning given here is the message where nothing more exact can be said.
"""


def page() -> str:
    """The page as Markdown. Raises UnplacedError."""
    causes.check()
    rows = [
        (
            f'<a id="{name}"></a>{code(name)}',
            code(kind.__name__),
            prose(inspect.getdoc(kind)),
            str(kind.status),
            str(exit_code(kind())),
            _where(name),
        )
        for name, kind in sorted(error_classes().items())
    ]
    titles = ("Code", "Python", "Meaning", "Status", "Exit code", "From")
    return _INTRODUCTION + "\n" + table(titles, rows)


def _where(name: str) -> str:
    places = [f"[{action}](actions.md#{action})" for action in causes.actions_with(name)]
    if name in causes.ANY_ACTION:
        places.insert(0, "any action")
    if name in causes.ELSEWHERE:
        places.append(causes.ELSEWHERE[name])
    return ", ".join(places)
