"""What became of a bet gets into the log once, also if the log does not take it at first."""

from __future__ import annotations

import pytest

from suite.errors import LogNotWritable, SuiteError, TooLarge, Unavailable
from suite.identity import utc_now
from suite.messages.events import PredictionMade, PredictionSettled
from suite.node.settlement import Settlement
from suite.prediction.bet_book import BetBook, not_loaded

MADE = PredictionMade(
    model_id="m",
    node="box1",
    prediction_id="p",
    chance=0.6,
    estimate=0.7,
    horizon_seconds=1800.0,
    saves_seconds=12.0,
    costs_seconds=2.0,
    bytes=100,
)


class Failing:
    """A journal that fails once."""

    def __init__(self, error: SuiteError) -> None:
        self.tried = 0
        self._error = error

    async def record(self, settled: PredictionSettled, *, correlation_id: str) -> None:
        assert settled.prediction_id == correlation_id
        self.tried += 1
        if self.tried == 1:
            raise self._error


@pytest.mark.parametrize(("error", "tried"), [(Unavailable(), 2), (LogNotWritable(), 1), (TooLarge(), 1)])
async def test_it_is_tried_again_unless_the_journal_does_so_or_the_log_never_takes_it(
    error: SuiteError, tried: int
) -> None:
    journal = Failing(error)
    settlement = Settlement("box1", BetBook("box1"), journal, None, now=utc_now)  # type: ignore[arg-type]
    for _ in range(3):
        await settlement.record(not_loaded(MADE, "overloaded"))
    assert journal.tried == tried
