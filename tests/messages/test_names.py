"""Facts and errors are spread over modules, and importers get all of them from one."""

from __future__ import annotations

from suite import errors
from suite.messages import events


def test_each_fact_is_imported_from_the_package() -> None:
    assert {kind.__name__ for kind in events.REGISTRY.values()} <= set(events.__all__)


def test_each_error_is_imported_from_the_package() -> None:
    kinds = [kind for kind in errors.error_classes().values() if kind.__module__.startswith(errors.__name__)]
    assert {kind.__name__ for kind in kinds} <= set(errors.__all__)
