"""Snapshots with a time and names of their own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from suite.engine.snapshots.file import Payload
from suite.engine.snapshots.folder import SUPERSEDED, WHOLE
from suite.engine.snapshots.snapshots import Snapshots
from suite.identity import new_id

MEGABYTE = 1 << 20
KEY = "a model, its settings, a version"
PATIENCE = 20.0
"""Seconds in which a disk has done what it was asked for."""


class Time:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self._at = datetime(2025, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self._at

    def pass_by(self, seconds: float) -> None:
        self._at += timedelta(seconds=seconds)


def snapshots(
    directory: Path | None = None,
    *,
    time: Time | None = None,
    key: str = KEY,
    memory_bytes: int = MEGABYTE,
    disk_bytes: int = MEGABYTE,
    max_conversations: int = 50,
    max_age_seconds: float = 3600.0,
) -> Snapshots:
    return Snapshots(
        directory=directory,
        key=key,
        memory_bytes=memory_bytes,
        disk_bytes=disk_bytes,
        max_conversations=max_conversations,
        max_age_seconds=max_age_seconds,
        now=time or Time(),
        new_id=new_id,
    )


def loaded(
    store: Snapshots, prompt: Sequence[int], conversation_id: str | None = None, *, whole: bool = False
) -> Payload | None:
    """What is found for a prompt, loaded."""
    found = store.find(prompt, conversation_id, whole=whole)
    return None if found is None else store.load(found)


def files(directory: Path) -> list[Path]:
    """The whole files of all keys."""
    return sorted(path for path in directory.glob("*/*") if path.suffix in (WHOLE, SUPERSEDED))
