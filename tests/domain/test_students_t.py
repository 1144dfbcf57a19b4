"""The quantiles of Student's t are those of printed tables."""

from __future__ import annotations

import pytest

from suite.domain.students_t import quantile


@pytest.mark.parametrize(
    ("probability", "freedom", "exact"),
    [
        (0.95, 1, 6.3138),
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.975, 3, 3.1824),
        (0.99, 4, 3.7469),
        (0.95, 9, 1.8331),
        (0.975, 9, 2.2622),
        (0.975, 30, 2.0423),
        (0.999, 4, 7.1732),
        (0.975, 1000, 1.9623),
        (0.975, 1e9, 1.9600),
    ],
)
def test_quantiles_are_those_of_the_tables(probability: float, freedom: float, exact: float) -> None:
    assert quantile(probability, freedom) == pytest.approx(exact, rel=1e-3)


def test_between_whole_degrees_of_freedom_the_quantiles_lie_between_theirs() -> None:
    assert quantile(0.95, 4) > quantile(0.95, 4.5) > quantile(0.95, 5)
