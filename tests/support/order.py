"""The order in which the files of the tests are handed out to the workers: the longest first.

What takes a minute and comes last leaves the other workers idle for that minute. The files below take the
longest, as `--durations 0` told; all others follow in the order of their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).resolve().parents[1]

LONGEST: Final = ()


def longest_first(items: list[pytest.Item]) -> None:
    """Sort the tests by their files; within a file they keep their order."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in places), "a file was renamed: tests/support/order.py names it"
    items.sort(key=lambda item: places.get(item.path, len(places)))
