"""95 % confidence intervals of what was measured: of a share by Wilson's score, of a mean by Student's t.

Sources: E. B. Wilson, "Probable inference" (1927), which holds for few samples and for shares of 0 and 1;
M. Abramowitz and I. Stegun, "Handbook of Mathematical Functions", 26.7.5, for the quantiles of t, within a
thousandth of the exact ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import Final

from suite.messages.benchmarks import Mean, Share

_UPPER: Final = 0.975
"""2.5 % lie beyond each end of the interval."""
_Z: Final = NormalDist().inv_cdf(_UPPER)
_EXPANSION: Final = (
    _Z,
    (_Z**3 + _Z) / 4,
    (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96,
    (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / 384,
    (79 * _Z**9 + 776 * _Z**7 + 1482 * _Z**5 - 1920 * _Z**3 - 945 * _Z) / 92_160,
)


def share(count: int, samples: int) -> Share:
    """The share of ``count`` among so many samples, of which there is at least one."""
    found, z2 = count / samples, _Z * _Z
    middle = (found + z2 / (2 * samples)) / (1 + z2 / samples)
    half = math.sqrt(found * (1 - found) / samples + z2 / (4 * samples * samples)) / (1 + z2 / samples) * _Z
    # The ends are exact where the share is: rounding must not put it outside of its interval.
    low = 0.0 if count == 0 else max(middle - half, 0.0)
    high = 1.0 if count == samples else min(middle + half, 1.0)
    return Share(share=found, low=low, high=high, samples=samples)


def mean(samples: Sequence[float]) -> Mean | None:
    """The mean of independent samples; None if there are none."""
    if not samples:
        return None
    middle = fmean(samples)
    if len(samples) < 2:
        return Mean(mean=middle, low=None, high=None, samples=1)
    half = quantile(len(samples) - 1) * stdev(samples) / math.sqrt(len(samples))
    return Mean(mean=middle, low=middle - half, high=middle + half, samples=len(samples))


def quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t with so many degrees of freedom, 1 or more."""
    if degrees == 1:
        return math.tan(math.pi * (_UPPER - 0.5))
    if degrees == 2:
        return (2 * _UPPER - 1) / math.sqrt(2 * _UPPER * (1 - _UPPER))
    return sum(term / degrees**power for power, term in enumerate(_EXPANSION))
