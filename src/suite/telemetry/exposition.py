"""The metrics of this process as Prometheus reads them, made when it asks.

Names are as OpenTelemetry's specification translates them: dots become underscores, the unit is written out
at the end, and counters end in ``_total``. So a dashboard finds the same names whether Prometheus fetches the
metrics here or gets them over OTLP.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from opentelemetry.sdk.metrics.export import (
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricReader,
    MetricsData,
    NumberDataPoint,
    Sum,
)
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_UNITS: Final = {"s": "seconds", "By": "bytes", "By.s": "byte_seconds", "1": "ratio"}
_is_no_name = re.compile(r"[^a-zA-Z0-9_]")


def prometheus_name(name: str, unit: str) -> str:
    """What Prometheus calls a metric, without the ``_total`` of a counter."""
    plain, suffix = _is_no_name.sub("_", name), _UNITS.get(unit, "")
    return f"{plain}_{suffix}" if suffix and not plain.endswith(f"_{suffix}") else plain


class Exposition(MetricReader):
    """Reads what this process has measured, as text for Prometheus."""

    def __init__(self) -> None:
        super().__init__()
        self._data: MetricsData | None = None
        self.registry = CollectorRegistry()
        """All that is exposed; further collectors of prometheus_client may be registered."""
        self.registry.register(_Families(self))
        # Memory, descriptors, CPU: ``process_...``, as all have them.
        ProcessCollector(registry=self.registry)

    def text(self) -> bytes:
        """All metrics, as text of the version 0.0.4."""
        return generate_latest(self.registry)

    def families(self) -> Iterator[Family]:
        """What has been measured until now."""
        self.collect()
        if self._data is None:
            return
        for resource in self._data.resource_metrics:
            yield _about(resource.resource.attributes)
            for scope in resource.scope_metrics:
                yield from map(_family, scope.metrics)

    def _receive_metrics(self, metrics_data: MetricsData, *_: Any, **__: Any) -> None:
        self._data = metrics_data

    def shutdown(self, *_: Any, **__: Any) -> None:
        """Nothing is to be ended."""


class _Families(Collector):
    """Has prometheus_client write what a reader reads."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    def collect(self) -> Iterator[Family]:
        return self._exposition.families()


def _about(attributes: Mapping[str, object]) -> Family:
    """The process that the metrics are of, as the specification wants it."""
    family = Family("target", "The process that these metrics are of.", "info")
    family.add_sample("target_info", _labels(attributes), 1)
    return family


def _family(metric: Metric) -> Family:
    name, data, about = prometheus_name(metric.name, metric.unit or ""), metric.data, metric.description or ""
    match data:
        case Sum(is_monotonic=True):
            return _numbers(Family(name, about, "counter"), f"{name}_total", data.data_points)
        case Sum() | Gauge():
            return _numbers(Family(name, about, "gauge"), name, data.data_points)
        case Histogram():
            return _histogram(Family(name, about, "histogram"), data.data_points)
        case _:
            raise TypeError(f"{metric.name} is of a kind that nothing here makes")


def _numbers(family: Family, name: str, points: Iterable[NumberDataPoint]) -> Family:
    for point in points:
        family.add_sample(name, _labels(point.attributes or {}), point.value)
    return family


def _histogram(family: Family, points: Iterable[HistogramDataPoint]) -> Family:
    for point in points:
        labels, count = _labels(point.attributes or {}), 0
        for bound, inside in zip((*point.explicit_bounds, float("inf")), point.bucket_counts, strict=True):
            count += inside
            family.add_sample(f"{family.name}_bucket", {**labels, "le": _number(bound)}, count)
        family.add_sample(f"{family.name}_count", labels, point.count)
        family.add_sample(f"{family.name}_sum", labels, point.sum)
    return family


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _labels(attributes: Mapping[str, object]) -> dict[str, str]:
    return {_is_no_name.sub("_", name): str(value) for name, value in attributes.items()}
