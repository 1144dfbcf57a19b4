"""The old services' rule: what was used most in the last hour will be used again."""

from __future__ import annotations

from datetime import datetime, timedelta

from suite.prediction.policy import History

WINDOW = timedelta(hours=1)


class MostUsedLastHour:
    """The models with the most uses in the last hour, and of as many uses by id."""

    name = "most_used_last_hour"

    async def predict(self, history: History, *, now: datetime, limit: int) -> list[str]:
        """The most used first; fewer than ``limit`` when fewer were used."""
        return [model_id for model_id, _ in await history.counts(now - WINDOW, limit)]
