"""Summarizes many samples of a metric in a few hundred bytes that can be merged.

Count, lowest, highest and mean are exact; percentiles come from a DDSketch (Masson, Rim, Lee: DDSketch, VLDB
2019) and are within `RELATIVE_ERROR` of a sample. The sum is kept as an integer multiple of the smallest
positive float, so it neither rounds nor overflows: samples can be added and sketches merged in any order, and
the result is the same to the last bit::

    sketch = Sketch()
    sketch.add(12.5)
    sketch.absorb(packed)
    p50, p95 = sketch.percentiles(50, 95)
"""

from __future__ import annotations

import math
import sys
from typing import Final, TypeAlias

import msgspec
from ddsketch.ddsketch import BaseDDSketch
from ddsketch.mapping import LogarithmicMapping
from ddsketch.store import Store

RELATIVE_ERROR: Final = 0.01

_STEP_BITS: Final = 1074
"""Every float is an integer multiple of 2 ** -1074."""

Bins: TypeAlias = dict[int, int]
_Packed: TypeAlias = tuple[int, float, float, int, bytes, int, Bins, Bins]
"""Count, lowest, highest, sum (as a shift and a shifted integer), zeros, positive bins, negative bins."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


class _Mapping(LogarithmicMapping):
    """The library's mapping, except for the last bin, whose middle is too large for a float."""

    def value(self, key: int) -> float:
        try:
            return float(super().value(key))
        except OverflowError:
            return sys.float_info.max


class _SparseStore(Store):
    """A store that keeps only non-empty bins, because samples may be 600 orders of magnitude apart."""

    def __init__(self, bins: Bins) -> None:
        super().__init__()
        self.bins = bins
        self.count = sum(bins.values())

    def copy(self, store: _SparseStore) -> None:
        self.bins, self.count = dict(store.bins), store.count

    def length(self) -> int:
        return len(self.bins)

    def add(self, key: int, weight: float = 1) -> None:
        self.bins[key] = self.bins.get(key, 0) + int(weight)
        self.count += int(weight)

    def key_at_rank(self, rank: float, lower: bool = True) -> int:
        running = 0
        for key in (keys := sorted(self.bins)):
            running += self.bins[key]
            if running > rank if lower else running >= rank + 1:
                return key
        return keys[-1]

    def merge(self, store: _SparseStore) -> None:
        for key, weight in store.bins.items():
            self.add(key, weight)


_mapping = _Mapping(RELATIVE_ERROR)
_key = _mapping.key
_SMALLEST: Final = _mapping.min_possible
"""Values closer to zero than this (about 2e-308) count as zero in percentiles."""


class Sketch:
    """Count, lowest, highest, mean and percentiles of some samples."""

    __slots__ = ("_negative", "_positive", "_total", "_zeros", "count", "high", "low")

    def __init__(self) -> None:
        self.count = 0
        self.low = math.inf
        self.high = -math.inf
        self._total = 0
        self._zeros = 0
        self._positive: Bins = {}
        self._negative: Bins = {}

    def add(self, value: float) -> None:
        """Add one sample, which must be finite."""
        value += 0.0  # -0.0 becomes 0.0, so that the result does not depend on which came first
        self.count += 1
        self.low = min(self.low, value)
        self.high = max(self.high, value)
        numerator, denominator = value.as_integer_ratio()
        self._total += numerator << (_STEP_BITS + 1 - denominator.bit_length())
        if value > _SMALLEST:
            key, bins = _key(value), self._positive
        elif value < -_SMALLEST:
            key, bins = _key(-value), self._negative
        else:
            self._zeros += 1
            return
        bins[key] = bins.get(key, 0) + 1

    def merge(self, other: Sketch) -> None:
        """Add the samples of another sketch."""
        self.count += other.count
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        self._total += other._total
        self._zeros += other._zeros
        _add_bins(self._positive, other._positive)
        _add_bins(self._negative, other._negative)

    def absorb(self, packed: bytes) -> None:
        """Add the samples of a packed sketch."""
        count, low, high, shift, total, zeros, positive, negative = _decode(packed)
        self.count += count
        self.low = min(self.low, low)
        self.high = max(self.high, high)
        self._total += int.from_bytes(total, "big", signed=True) << shift
        self._zeros += zeros
        _add_bins(self._positive, positive)
        _add_bins(self._negative, negative)

    def pack(self) -> bytes:
        """Serialize the sketch. The same samples give the same bytes, in whatever order they were added."""
        shift = max(0, (self._total & -self._total).bit_length() - 1)
        total = self._total >> shift
        return _encode(
            (
                self.count,
                self.low,
                self.high,
                shift,
                total.to_bytes(total.bit_length() // 8 + 1, "big", signed=True),
                self._zeros,
                dict(sorted(self._positive.items())),
                dict(sorted(self._negative.items())),
            )
        )

    @property
    def mean(self) -> float:
        """The mean of all samples, rounded once. There must be at least one sample."""
        return self._total / (self.count << _STEP_BITS)

    def percentiles(self, *percents: int) -> list[float]:
        """Nearest-rank percentiles, each within `RELATIVE_ERROR`. There must be at least one sample."""
        sketch = BaseDDSketch(
            _mapping, _SparseStore(self._positive), _SparseStore(self._negative), self._zeros
        )
        values = []
        for percent in percents:
            rank = max(0, -(-percent * self.count // 100) - 1)
            # The library rounds ranks down. Half a rank is added so that its float rounding does not matter.
            value = float(sketch.get_quantile_value(min(1.0, (rank + 0.5) / max(1, self.count - 1))) or 0.0)
            values.append(min(self.high, max(self.low, value)))
        return values


def _add_bins(bins: Bins, more: Bins) -> None:
    get = bins.get
    for key, weight in more.items():
        bins[key] = get(key, 0) + weight
