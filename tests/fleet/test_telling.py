"""How often nodes tell each other what has changed."""

from __future__ import annotations

import pytest

from suite.node.fleet.presence import LEAST_PAUSE_SECONDS, pause_seconds


@pytest.mark.parametrize("nodes", [1, 2, 20, 100, 1000])
def test_a_node_hears_no_more_than_a_thousand_changes_a_second_of_however_many_others(nodes: int) -> None:
    heard = (nodes - 1) / pause_seconds(nodes - 1)
    assert heard <= 1000 + 1e-6
    assert pause_seconds(nodes - 1) >= LEAST_PAUSE_SECONDS
