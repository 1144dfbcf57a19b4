"""The reference of the metrics: every definition of `suite.telemetry.instruments`."""

from __future__ import annotations

from generator.markdown import code, table
from suite.telemetry import instruments
from suite.telemetry.exposition import prometheus_name
from suite.telemetry.instrument import Counter, Definition

_INTRODUCTION = """\
# Metrics

What a node and a gateway measure, by the names of OpenTelemetry, and as Prometheus calls it. Histograms have
`_bucket`, `_count` and `_sum` at the end there, and attributes are labels with underscores instead of dots.
[How to](../how-to/metrics.md) have them.
"""


def page() -> str:
    """The page as Markdown."""
    titles = ("Metric", "For Prometheus", "Kind", "Unit", "Attributes", "Meaning")
    return f"{_INTRODUCTION}\n{table(titles, [_cells(each) for each in instruments.ALL])}"


def _cells(definition: Definition) -> tuple[str, ...]:
    name = prometheus_name(definition.name, definition.unit)
    return (
        code(definition.name),
        code(f"{name}_total" if isinstance(definition, Counter) else name),
        type(definition).__name__,
        code(definition.unit),
        ", ".join(map(code, definition.attributes)),
        definition.description,
    )
