"""A clock that jumps changes no read model, and no length of time is negative."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import pytest

import suite
from suite.config import Settings
from suite.identity import utc_now
from suite.node.startup import running_node
from suite.projections import projector
from support.models import tiny_model


class Clock:
    """The time, or another."""

    ahead = timedelta()

    def now(self) -> datetime:
        return utc_now() + self.ahead


def rows(path: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as db:
        return db.execute("SELECT * FROM performance_metrics ORDER BY seq").fetchall()


async def test_a_clock_that_is_days_ahead_for_a_while_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector, "EXPIRE_SECONDS", 0.02)
    tiny_model(tmp_path / "tiny.gguf")
    clock, data_dir = Clock(), tmp_path / "data"
    settings = Settings(node="box", data_dir=data_dir, models_directories=(tmp_path,), standby=False)
    async with running_node(settings, now=clock.now), suite.connect(data_dir=data_dir) as client:

        async def samples() -> int:
            total = (await client.summary("latency")).total
            return 0 if total is None else total.count

        for number in range(3):
            await client.log_performance_metric("agent", "latency", float(number))
        assert await samples() == 3
        for days in (200, -200):
            clock.ahead = timedelta(days=days)
            await client.log_performance_metric("agent", "latency", 9.0)
            await client.record_usage("tiny", usage_type="elsewhere")
            await anyio.sleep(0.2)  # for what expires to go, some times over
            await client.log_performance_metric("agent", "latency", 9.0)
        assert await samples() == 7
        clock.ahead = timedelta()
        model = (await client.get_model_status("tiny")).model
        assert model is not None
        assert model.idle_time is not None
        assert model.idle_time >= 0
        file = data_dir / "projections" / "model_evaluation.db"
        live = rows(file)
        assert len({row[-1] for row in live}) <= 2  # all expire as they were stored, within the hour
        await client.rebuild_projection("evaluation")
        assert await samples() == 7
        assert rows(file) == live
