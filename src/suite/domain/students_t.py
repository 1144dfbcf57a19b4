"""Student's t: how far a mean of few samples may be from the truth."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

_STEPS: Final = 100
"""Of the numerical integral, and at most of the search for a quantile."""
_LIKE_NORMAL: Final = 2000.0
"""With more degrees of freedom the distribution hardly changes: it is taken as it is with so many."""


@lru_cache(maxsize=4096)
def quantile(probability: float, freedom: float) -> float:
    """The value below which Student's t lies with this probability, above 0.5.

    `freedom`: its degrees of freedom, over 0. With t = sqrt(freedom) * tan(angle), its distribution is an
    integral of a power of the cosine.
    """
    freedom = min(freedom, _LIKE_NORMAL)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    low, high = 0.0, math.pi / 2
    for _ in range(_STEPS):
        angle = (low + high) / 2
        if 0.5 + scale * _integral(freedom - 1, angle) < probability:
            low = angle
        else:
            high = angle
        if high - low < 1e-10:
            break
    return math.sqrt(freedom) * math.tan(low)


def _integral(power: float, end: float) -> float:
    """Of cos(x) ** power from 0 to `end`, by Simpson's rule."""
    step = end / _STEPS
    values = [math.pow(math.cos(index * step), power) for index in range(_STEPS + 1)]
    return step / 3 * (values[0] + values[-1] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2]))
