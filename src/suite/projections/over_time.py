"""The window of a question about how something went over time, and its steps."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from suite.errors import InvalidRequest
from suite.messages.actions.statistics import OverTime
from suite.messages.times import parse_time
from suite.projections.buckets import MINUTE, minute_of, step_for

DAY: Final = timedelta(days=1)
_LONGEST: Final = timedelta(days=200 * 366)
"""No clock of a node is so wrong that an event would be outside of that."""


class Window(NamedTuple):
    """A range of time in whole steps, in seconds since 1970."""

    begin: int
    end: int
    """Exclusive."""
    step: int

    @classmethod
    def of(cls, request: OverTime, now: datetime) -> Window:
        """The window that a request is about: the last day unless it says otherwise, widened to whole steps.

        Raises InvalidRequest for an invalid time, and for a window that does not end after it begins.
        """
        until = now if request.until is None else parse_time(request.until, "until")
        since = _day_before(until) if request.since is None else parse_time(request.since, "since")
        if until <= since:
            raise InvalidRequest("field 'until': it must be later than 'since', it is exclusive")
        begin = max(minute_of(since), minute_of(now - _LONGEST))
        end = min(minute_of(until, up=True), minute_of(now + _LONGEST))
        return cls._whole(begin, max(end, begin + MINUTE))

    @classmethod
    def _whole(cls, begin: int, end: int) -> Window:
        step = step_for(begin, end)
        return cls(begin // step * step, -(-end // step) * step, step)

    def clipped(self, first: int | None) -> Window:
        """The window without what is before the first of all; with its end, if that is later."""
        if first is None or not self.begin < first < self.end:
            return self
        return self._whole(first, self.end)

    def step_of(self, second: int) -> int:
        """The step in which a time is."""
        return second // self.step * self.step


def _day_before(time: datetime) -> datetime:
    try:
        return time - DAY
    except OverflowError:
        raise InvalidRequest("field 'until': there is no day before that") from None
