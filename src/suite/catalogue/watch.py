"""Watches directories for changes of the files below them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

import anyio
import watchfiles

logger = logging.getLogger("suite.catalogue")

TICK_SECONDS = 1.0
_TOGETHER_MS = 300
"""Changes within this time are told together."""
_POLLED_TICKS = 60


def identities(directories: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """The directories that exist, each with what tells it from another one of the same path.

    A watch is kept on a directory itself, not on its path: when this changes, it must be set up again.
    """
    found: dict[Path, tuple[int, int]] = {}
    for directory in directories:
        try:
            status = directory.stat()
        except OSError:
            continue
        found[directory] = (status.st_dev, status.st_ino)
    return found


async def ticks(directories: Sequence[Path]) -> AsyncGenerator[bool, None]:
    """Yield True when something changed below the directories, and False after each second without a change.

    Where the system cannot watch files, it yields False each second and ends after some time, to be tried
    again.
    """
    if directories:
        changes = watchfiles.awatch(
            *directories,
            watch_filter=None,
            debounce=_TOGETHER_MS,
            rust_timeout=int(TICK_SECONDS * 1000),
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )
        try:
            async with aclosing(changes):
                async for seen in changes:
                    yield bool(seen)
        except (OSError, RuntimeError, UnicodeEncodeError, ExceptionGroup) as error:
            logger.warning("files cannot be watched, so they are scanned every few seconds: %s", error)
    for _ in range(_POLLED_TICKS):
        await anyio.sleep(TICK_SECONDS)
        yield False
