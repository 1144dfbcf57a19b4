"""The order in which the files of the tests are handed out to the workers: the longest first.

What takes a minute and comes last leaves the other workers idle for that minute. The files below take the
longest, as `--durations 0` told; all others follow in the order of their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).resolve().parents[1]

LONGEST: Final = (
    "faults/test_faults_of_surroundings.py",
    "faults/test_faults_of_processes.py",
    "faults/test_when_something_dies.py",
    "docs/test_tutorial.py",
    "fuzz/test_fuzzing.py",
    "engine/test_speculation.py",
    "gateway/test_dashboard.py",
    "gateway/test_views_over_time.py",
    "faults/test_fleet_faults.py",
    "faults/test_nats_cluster.py",
    "faults/test_rotten_store.py",
    "actors/test_actor.py",
    "cli/test_help_examples.py",
    "cli/test_screens.py",
    "cli/test_commands.py",
    "bus/test_cluster.py",
    "fleet/test_actions_of_the_fleet.py",
    "service/test_generating.py",
    "service/test_loading.py",
    "service/test_engine_service.py",
    "telemetry/test_measured_service.py",
    "service/test_starting.py",
    "docs/test_programs.py",
    "faults/test_full_disk.py",
    "faults/test_out_of_memory.py",
    "gateway/test_openai.py",
    "gateway/test_anthropic.py",
)


def longest_first(items: list[pytest.Item]) -> None:
    """Sort the tests by their files; within a file they keep their order."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in places), "a file was renamed: tests/support/order.py names it"
    items.sort(key=lambda item: places.get(item.path, len(places)))
