"""Watches directories for changes of the files below them."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path

import anyio.to_thread
import watchfiles

from suite.ticks import tick

logger = logging.getLogger("suite.catalogue")

TICK_SECONDS = 1.0
_STEP_MS = 250
"""How often the thread that watches looks for news. It tells changes once a step has brought no more."""
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


async def ticks(
    directories: Sequence[Path], patience: Callable[[], int] = lambda: 1
) -> AsyncGenerator[bool, None]:
    """Yield True when something changed below the directories, and False after seconds without a change.

    `patience` says after how many; it is asked each time. Where the system cannot watch files, it yields
    False each second and ends after some time, to be tried again.
    """
    stop = threading.Event()
    told = watchfiles.watch(
        *directories,
        watch_filter=None,
        debounce=_STEP_MS,
        step=_STEP_MS,
        stop_event=stop,
        rust_timeout=int(TICK_SECONDS * 1000) - _STEP_MS // 2,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )
    try:
        while directories:
            yield await anyio.to_thread.run_sync(_is_told, told, patience(), abandon_on_cancel=True)
    except (OSError, RuntimeError, UnicodeEncodeError) as error:
        logger.warning("files cannot be watched, so they are scanned every few seconds: %s", error)
    finally:
        stop.set()
    for _ in range(_POLLED_TICKS):
        await tick(TICK_SECONDS)
        yield False


def _is_told(told: Iterator[Collection[object]], ticks: int) -> bool:
    """Whether a change is told within so many ticks. Blocks."""
    return any(islice(told, ticks))
