"""The error of a reply: the class that belongs to its code."""

from __future__ import annotations

from suite.errors.base import SuiteError
from suite.errors.generations import Overloaded
from suite.errors.models import Quarantined


def error_classes() -> dict[str, type[SuiteError]]:
    """All error classes by their codes. A class without a code of its own has that of its parent."""
    kinds: list[type[SuiteError]] = [SuiteError]
    found: dict[str, type[SuiteError]] = {}
    while kinds:
        kind = kinds.pop()
        if "code" in vars(kind):
            found[kind.code] = kind
        kinds += kind.__subclasses__()
    return found


def error_from_reply(code: str, message: str, *, retry_after_ms: int | None = None) -> SuiteError:
    """The error of a reply with ``status: error``; an unknown code gives the root class."""
    kind = error_classes().get(code, SuiteError)
    if issubclass(kind, Overloaded | Quarantined) and retry_after_ms is not None:
        return kind(message, retry_after_ms=retry_after_ms)
    return kind(message)
