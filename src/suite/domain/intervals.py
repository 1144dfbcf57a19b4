"""95 % confidence intervals of what was measured: of a share by Wilson's score, of a mean by Student's t.

Source: E. B. Wilson, "Probable inference" (1927), which holds for few samples and for shares of 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import Final

from suite.domain.students_t import quantile
from suite.messages.benchmarks import Mean, Share

_UPPER: Final = 0.975
"""2.5 % lie beyond each end of the interval."""
_Z: Final = NormalDist().inv_cdf(_UPPER)


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
    """The mean of independent samples, of which none is negative; None if there are none."""
    if not samples:
        return None
    middle = fmean(samples)
    if len(samples) < 2:
        return Mean(mean=middle, low=None, high=None, samples=1)
    half = quantile(_UPPER, len(samples) - 1) * stdev(samples) / math.sqrt(len(samples))
    return Mean(mean=middle, low=max(middle - half, 0.0), high=middle + half, samples=len(samples))
