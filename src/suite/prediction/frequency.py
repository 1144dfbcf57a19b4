"""The rule of the older services: the models most used in the last hour will be used next."""

from __future__ import annotations

from datetime import datetime, timedelta

from suite.prediction.policy import History

WINDOW = timedelta(hours=1)


class MostUsedLastHour:
    """Predicts the models with the most uses in the last hour; ties are sorted by id."""

    name = "most_used_last_hour"

    async def predict(self, history: History, *, now: datetime, limit: int) -> list[str]:
        """The most used models first; fewer than ``limit`` if fewer were used."""
        return [model_id for model_id, _ in await history.counts(now - WINDOW, limit)]
