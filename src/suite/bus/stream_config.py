"""Whether a stream that is there may be used: looked at, never changed, for it is its operator's (ADR 20).

What is not named here is the operator's choice: replicas, placement, compression, description, metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suite.errors import ServerUnsuitable


def require(
    config: Mapping[str, Any], exactly: Mapping[str, Any], *, at_least: Mapping[str, int], purpose: str
) -> None:
    """Raises ServerUnsuitable that names each field which is wrong, its value, and what it must be.

    ``at_least`` has numbers that may be larger; -1, no limit, is larger than all. ``purpose`` says what the
    stream is for: "hold the log".
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
    """The server leaves out what is off or empty."""
    return config.get(field, False if isinstance(wanted, bool) else wanted)


def _told(value: object) -> str:
    match value:
        case None | [] | "":
            return "not set"
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)
