"""Snapshots that nobody uses end, whatever becomes of their model."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from suite.config import Settings
from suite.node import snapshots
from suite.node.snapshots import snapshots_of, sweep_snapshots

PATIENCE = 20.0


async def test_what_expires_later_is_removed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SWEEP_SECONDS", 0.01)
    settings = Settings(data_dir=tmp_path)
    folder = snapshots_of(settings, "a model") / "key"
    folder.mkdir(parents=True)
    used = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
    for name, age in (("old.kv", 0), ("new.old", 60)):
        (folder / name).touch()
        os.utime(folder / name, (used + age, used + age))
    now = used + 3601

    def left() -> set[str]:
        return {path.name for path in tmp_path.rglob("*") if path.is_file()}

    async def until(names: set[str]) -> None:
        with anyio.fail_after(PATIENCE):
            while left() != names:
                await anyio.sleep(0.01)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sweep_snapshots, settings, lambda: datetime.fromtimestamp(now, UTC))
        await until({"new.old"})
        now += 60
        await until(set())
        tasks.cancel_scope.cancel()
    assert not folder.exists()
    assert folder.parent.exists(), "the model's process may write nowhere else, and could not make it again"
