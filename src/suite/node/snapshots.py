"""Locates and removes the snapshot files of all models on this node.

A model's process manages its own snapshots while it runs (`suite.engine.snapshots`). This module removes
those that expired or are to be forgotten, whether the model is loaded, unloaded or deleted.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from suite.config import Settings
from suite.engine.snapshots.folder import content_folder, folder_of, remove_expired, remove_snapshots
from suite.identity import Now

SWEEP_SECONDS = 60.0


def snapshots_of(settings: Settings, model_id: str | None) -> Path:
    """The directory of a model's snapshots; for None, that of all models."""
    root = settings.data_dir / "snapshots"
    return root if model_id is None else folder_of(root, model_id)


async def forget_snapshots(
    settings: Settings, model_id: str | None, conversation_id: str | None
) -> tuple[int, int]:
    """Remove snapshots of one conversation (None: all) of one model (None: all).

    Returns how many files were removed, and how many tokens they contained.
    """
    return await anyio.to_thread.run_sync(remove_snapshots, snapshots_of(settings, model_id), conversation_id)


async def forget_content(settings: Settings, model_id: str, sha256: str) -> None:
    """Remove the snapshots of a model that were made with this content."""
    folder = content_folder(snapshots_of(settings, model_id), sha256)
    await anyio.to_thread.run_sync(remove_snapshots, folder)


async def sweep_snapshots(settings: Settings, now: Now) -> None:
    """Remove snapshots that were unused for too long, now and every `SWEEP_SECONDS`.

    Removes all of them if snapshots on disk are disabled.
    """
    kept = settings.snapshots
    while True:
        on_disk = kept.enabled and kept.disk_mb > 0
        oldest = now().timestamp() - kept.max_age_seconds if on_disk else math.inf
        remove = partial(remove_expired, snapshots_of(settings, None), expired_before=oldest)
        await anyio.to_thread.run_sync(remove)
        await anyio.sleep(SWEEP_SECONDS)
