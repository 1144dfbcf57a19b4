"""Generates the files of ``schemas/`` from the wire types, so that they cannot differ from the code::

    python -m suite.messages.schema --write schemas     # after a change of a type
    python -m suite.messages.schema --check schemas     # exit 1, naming each file that differs

They are for clients in any language; the service itself validates by the types.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from suite.messages import signals
from suite.messages.actions.base import ErrorReply
from suite.messages.asyncapi import asyncapi
from suite.messages.generated import write_or_check
from suite.messages.jsonschema import (
    Document,
    action_types,
    event_types,
    reply_path,
    request_path,
    schema_of,
)


def documents() -> dict[str, Document]:
    """All files of ``schemas/`` by their paths."""
    files: dict[str, Any] = {"signals.json": signals.AnySignal, "error.json": ErrorReply}
    for action in action_types():
        files[request_path(action.name)] = action.request
        files[reply_path(action.name)] = action.reply
    for kind in event_types():
        files[f"events/{kind.type}.json"] = kind
    documents = {path: schema_of(kind, path) for path, kind in files.items()}
    return {**documents, "asyncapi.json": asyncapi()}


def rendered() -> dict[str, str]:
    """The text of each file by its path; deterministic."""
    return {path: json.dumps(document, indent=2) + "\n" for path, document in documents().items()}


def write(directory: Path) -> None:
    """Write the generated files into a directory, and remove its other JSON files."""
    texts = rendered()
    for path, text in texts.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    for path in _present(directory) - texts.keys():
        (directory / path).unlink()


def drift(directory: Path) -> list[str]:
    """The files that differ from the types: changed, missing, or left over."""
    texts = rendered()
    return sorted(
        path
        for path in _present(directory) | texts.keys()
        if not (directory / path).is_file()
        or (directory / path).read_text(encoding="utf-8") != texts.get(path)
    )


def _present(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*.json")}


def main(arguments: list[str] | None = None) -> int:
    """Write or check the files. The exit code is 1 if a check finds differences."""
    return write_or_check(
        arguments,
        module="suite.messages.schema",
        description="The wire types as schemas.",
        source="the types",
        write=write,
        drift=drift,
    )


if __name__ == "__main__":
    sys.exit(main())
