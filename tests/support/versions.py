"""What a node knows of versions and aliases, from events that no log has."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from suite.catalogue import Catalogue
from suite.domain.versions import Settings
from suite.log import Log
from suite.messages.envelope import Recorded
from suite.messages.events import Event, ModelRegistered
from suite.node.versions import Names, VersionBook

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def registered(
    sha256: str, settings: Settings | None = None, *, node: str = "box1", model_id: str = "m"
) -> ModelRegistered:
    return ModelRegistered(
        model_id=model_id,
        node=node,
        file_name="m.gguf",
        file_bytes=1,
        sha256=sha256,
        architecture="llama",
        parameters=1,
        quantization="F32",
        trained_context_tokens=8,
        settings=None if settings is None else dict(settings),
    )


def recorded(seq: int, event: Event) -> Recorded:
    return Recorded(seq=seq, subject="", id=str(seq), type=event.type, source="", time=NOON, data=event)


def book_of(*events: Event) -> VersionBook:
    book = VersionBook(cast(Log, None))
    for seq, event in enumerate(events, start=1):
        book.apply(recorded(seq, event))
    return book


def names_of(book: VersionBook, directory: Path) -> Names:
    return Names(book, Catalogue.open([directory], {}, directory / "data"))
