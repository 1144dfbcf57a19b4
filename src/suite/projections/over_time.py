"""The window of a question about how something went over time, and its steps."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from suite.errors import InvalidRequest
from suite.messages.actions.statistics import OverTime
from suite.messages.times import parse_time
from suite.projections.buckets import MINUTE, minute_of, step_for

DAY: Final = timedelta(days=1)
SECOND: Final = "CAST(strftime('%s', substr(at, 1, 19)) AS INTEGER)"
"""SQL for the second, since 1970, in which the column ``at`` is: SQLite would round up."""
_LONGEST: Final = timedelta(days=200 * 366)
"""No clock of a node is so wrong that an event would be outside of that."""
LONGEST_EMPTY: Final = timedelta(days=360)
"""A window of which nothing is known is no longer: nobody needs to see all years since 1970."""


class Window(NamedTuple):
    """A range of time in whole steps, in seconds since 1970."""

    begin: int
    end: int
    """Exclusive."""
    step: int

    @classmethod
    def of(cls, request: OverTime, first: int | None, now: datetime) -> Window:
        """The window that a request is about, widened to whole steps: the last day unless it says otherwise.

        It begins no earlier than ``first``, the time of the first thing that is known of what it is about. If
        nothing is known of its time, it is at most `LONGEST_EMPTY`.
        Raises InvalidRequest for an invalid time, and for a window that does not end after it begins.
        """
        until = now if request.until is None else parse_time(request.until, "until")
        since = day_before(until) if request.since is None else parse_time(request.since, "since")
        if until <= since:
            raise InvalidRequest("field 'until': it must be later than 'since', it is exclusive")
        begin = max(minute_of(since), minute_of(now - _LONGEST))
        end = min(minute_of(until, up=True), minute_of(now + _LONGEST))
        if first is not None and first < end:
            begin = max(begin, first)
        else:
            begin = max(begin, end - LONGEST_EMPTY // timedelta(seconds=1))
        end = max(end, begin + MINUTE)
        step = step_for(begin, end)
        return cls(begin // step * step, -(-end // step) * step, step)

    def step_of(self, second: int) -> int:
        """The step in which a time is."""
        return second // self.step * self.step


def first_of(since: datetime, until: datetime, first: datetime | None) -> datetime:
    """When a window begins: no earlier than the first thing that is known (`Window.of`)."""
    if first is not None and first < until:
        return max(since, first)
    return since if until - since <= LONGEST_EMPTY else until - LONGEST_EMPTY


def day_before(time: datetime) -> datetime:
    """The same time of the day before. Raises InvalidRequest if the calendar has none."""
    try:
        return time - DAY
    except OverflowError:
        raise InvalidRequest("field 'until': there is no day before that") from None
