"""What a metric is: its name, its unit, and what tells its series apart.

Definitions stand in `suite.telemetry.instruments`. An instrument is made of one where it is used, within
`suite.telemetry.measuring`; made outside of it, it records nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from suite.telemetry.measuring import meter
from suite.telemetry.spans import error_type

SeriesAttributes: TypeAlias = Mapping[str, str]
Observe: TypeAlias = Callable[[], Iterable[tuple[float, SeriesAttributes]]]
"""The values at this moment, each with the attributes of its series. Any thread may call it."""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """The base of all definitions."""

    name: str
    """As OpenTelemetry has it, with dots."""
    unit: str
    """In UCUM, as OpenTelemetry wants it: ``s``, ``By``, ``{token}``."""
    description: str
    attributes: tuple[str, ...] = ()
    """The names of the attributes that its series may have."""


@dataclass(frozen=True, kw_only=True)
class Counter(Definition):
    """What is counted and only grows."""

    def create(self) -> metrics.Counter:
        """The instrument to count with."""
        return meter().create_counter(self.name, self.unit, self.description)

    def observe(self, values: Observe) -> None:
        """Have the totals read when they are exported, instead of counting."""
        meter().create_observable_counter(self.name, [_callback(values)], self.unit, self.description)


@dataclass(frozen=True, kw_only=True)
class Gauge(Definition):
    """What is so large at the moment."""

    def observe(self, values: Observe) -> None:
        """Have the values read when they are exported."""
        meter().create_observable_gauge(self.name, [_callback(values)], self.unit, self.description)


@dataclass(frozen=True, kw_only=True)
class UpDownCounter(Definition):
    """How many there are at the moment, counted as they come and go."""

    def create(self) -> metrics.UpDownCounter:
        """The instrument to count with."""
        return meter().create_up_down_counter(self.name, self.unit, self.description)


@dataclass(frozen=True, kw_only=True)
class Histogram(Definition):
    """How values are distributed."""

    buckets: tuple[float, ...]
    """The upper bounds of its buckets."""

    def create(self) -> metrics.Histogram:
        """The instrument to record with."""
        return meter().create_histogram(
            self.name, self.unit, self.description, explicit_bucket_boundaries_advisory=self.buckets
        )


class Timed:
    """Records how long a block takes. That of one that raises has the code of the error as ``error.type``."""

    __slots__ = ("_attributes", "_began", "_histogram")

    def __init__(self, histogram: metrics.Histogram, attributes: SeriesAttributes) -> None:
        self._histogram = histogram
        self._attributes = attributes
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        seconds, attributes = perf_counter() - self._began, self._attributes
        if error is not None:
            attributes = {**attributes, "error.type": error_type(error)}
        self._histogram.record(seconds, attributes)


def _callback(values: Observe) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _: [Observation(value, attributes) for value, attributes in values()]
