"""The snapshots of all models on this node, as files: where they lie, and how they end.

Each model's process looks after its own while it runs (`suite.engine.snapshots`). What is to be forgotten or
has expired is removed here as well, whether the model is loaded, unloaded or gone for ever.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from suite.config import Settings
from suite.engine.snapshots.folder import folder_of, remove_expired, remove_snapshots
from suite.identity import Now

SWEEP_SECONDS = 60.0


def snapshots_of(settings: Settings, model_id: str | None) -> Path:
    """Where the snapshots of a model lie; for None, those of all."""
    root = settings.data_dir / "snapshots"
    return root if model_id is None else folder_of(root, model_id)


async def forget_snapshots(
    settings: Settings, model_id: str | None, conversation_id: str | None
) -> tuple[int, int]:
    """Remove the files of a conversation or all, of a model or all; how many, and of how many tokens."""
    return await anyio.to_thread.run_sync(remove_snapshots, snapshots_of(settings, model_id), conversation_id)


async def sweep_snapshots(settings: Settings, now: Now) -> None:
    """Remove what was not used for too long, now and each minute; everything where none are to be kept."""
    kept = settings.snapshots
    while True:
        on_disk = kept.enabled and kept.disk_mb > 0
        oldest = now().timestamp() - kept.max_age_seconds if on_disk else math.inf
        remove = partial(remove_expired, snapshots_of(settings, None), expired_before=oldest)
        await anyio.to_thread.run_sync(remove)
        await anyio.sleep(SWEEP_SECONDS)
