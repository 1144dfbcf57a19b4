"""The order in which the files of the tests are handed out to the workers: the longest first.

What takes a minute and comes last leaves the other workers idle for that minute. The files below take the
longest, 20 seconds and more of a whole run; all others follow in the order of their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).resolve().parents[1]

LONGEST: Final = (
    "engine/test_reference.py",
    "gateway/test_dashboard.py",
    "faults/test_when_something_dies.py",
    "gateway/test_views_over_time.py",
    "actors/test_actor.py",
    "faults/test_faults_of_surroundings.py",
    "cli/test_help_examples.py",
    "faults/test_rotten_store.py",
    "faults/test_fleet_faults.py",
    "engine/test_prompt.py",
    "faults/test_faults_of_processes.py",
    "fleet/test_actions_of_the_fleet.py",
    "service/test_promoting.py",
    "faults/test_nats_cluster.py",
    "node/test_ending.py",
    "service/test_loading.py",
    "service/test_starting.py",
    "service/test_taking_turns.py",
    "service/test_generating.py",
    "fleet/test_joining.py",
    "cli/test_commands.py",
    "cli/test_demo.py",
    "engine/test_forgetting.py",
    "fuzz/test_fuzzing.py",
    "service/test_files.py",
    "docs/test_tutorial.py",
)


def longest_first(items: list[pytest.Item]) -> None:
    """Sort the tests by their files; within a file they keep their order."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in places), "a file was renamed: tests/support/order.py names it"
    items.sort(key=lambda item: places.get(item.path, len(places)))
