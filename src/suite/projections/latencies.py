"""Times of requests in whole microseconds, in bins that SQL can count.

A bin has the times of about the same size: of each doubling there are 32, so that a percentile is within 2 %.
They need no logarithm and no floats: the same times are in the same bins everywhere, and sums are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from suite.messages.actions.statistics import Latency

_BITS: Final = 5
_DOUBLING: Final = 1 << _BITS
_LONGEST_US: Final = 2**53


def microseconds(milliseconds: float) -> int:
    """A time in whole microseconds; what is no time is 0, and what is longer than any is cut."""
    if not milliseconds > 0.0:
        return 0
    return min(round(min(milliseconds, 2.0**50) * 1000), _LONGEST_US)


def bin_of(time_us: int) -> int:
    """The bin of a time: the number of its highest bit, and the five bits behind that."""
    shift = time_us.bit_length() - 1 - _BITS
    return time_us if shift <= 0 else (shift << _BITS) + (time_us >> shift)


def middle_us(bin_: int) -> float:
    """A time in the middle of a bin, in microseconds."""
    if bin_ < 2 * _DOUBLING:
        return float(bin_)
    shift = (bin_ >> _BITS) - 1
    least = (bin_ - (shift << _BITS)) << shift
    return least + ((1 << shift) - 1) / 2


def latency(bins: Mapping[int, int], total_us: int) -> Latency | None:
    """What times come to that are in these bins and have this sum; None if there are none."""
    count = sum(bins.values())
    if not count:
        return None
    p50, p95, p99 = (_percentile(bins, -(-percent * count // 100)) for percent in (50, 95, 99))
    return Latency(count=count, mean_ms=round(total_us / count / 1000, 3), p50_ms=p50, p95_ms=p95, p99_ms=p99)


def _percentile(bins: Mapping[int, int], rank: int) -> float:
    """The time with a rank, of 1 and above, in milliseconds."""
    reached = 0
    for bin_ in sorted(bins):
        reached += bins[bin_]
        if reached >= rank:
            break
    return round(middle_us(bin_) / 1000, 3)
