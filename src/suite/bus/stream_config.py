"""Checks whether an existing stream can be used. It never changes one: the stream is its operator's (ADR 20).

The operator decides on every field that is not checked: replicas, placement, compression, description,
metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suite.errors import ServerUnsuitable


def require(
    config: Mapping[str, Any], exactly: Mapping[str, Any], *, at_least: Mapping[str, int], purpose: str
) -> None:
    """Raises ServerUnsuitable, naming each wrong field, its value, and what it must be.

    ``at_least`` gives minimum values; -1 means no limit and always passes. ``purpose`` says what the stream
    is for, such as "hold the log".
    """
    wrong = [
        f"{field} is {_told(config.get(field))} and must be {_told(wanted)}"
        for field, wanted in exactly.items()
        if _value(config, field, wanted) != wanted
    ]
    wrong += [
        f"{field} is {_told(config.get(field))} and must be {wanted} or more"
        for field, wanted in at_least.items()
        if config.get(field, 0) != -1 and config.get(field, 0) < wanted
    ]
    if wrong:
        name = config.get("name")
        raise ServerUnsuitable(
            f"the stream {name} cannot {purpose}: {'; '.join(wrong)}. Nothing was changed: set it right, for "
            f"instance with `nats stream edit {name}`; what a server lets nobody edit needs a new stream"
        )


def _value(config: Mapping[str, Any], field: str, wanted: object) -> object:
    """The value of a field, or its default: the server leaves out fields that are off or empty."""
    return config.get(field, False if isinstance(wanted, bool) else wanted)


def _told(value: object) -> str:
    match value:
        case None | [] | "":
            return "not set"
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)
