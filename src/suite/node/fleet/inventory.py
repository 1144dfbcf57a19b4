"""What the nodes of the fleet could load together, and where they differ (ADR 58)."""

from __future__ import annotations

from collections.abc import Mapping

from suite.domain.differences import Differences, differences
from suite.domain.nodes import Offered
from suite.node.fleet.peers import Peers
from suite.node.fleet.state import OwnState


class Inventory:
    """The models of all nodes. It is compared anew only when one of them has other models."""

    def __init__(self, node: str, own: OwnState, peers: Peers) -> None:
        self._node = node
        self._own = own
        self._peers = peers
        self._seen: dict[str, Mapping[str, Offered]] = {}
        self._differences = Differences()
        self._ids: frozenset[str] = frozenset()

    @property
    def differences(self) -> Differences:
        """Which models are not the same on all nodes."""
        self._look()
        return self._differences

    @property
    def model_ids(self) -> frozenset[str]:
        """The models that some node could load."""
        self._look()
        return self._ids

    def _look(self) -> None:
        every = {self._node: self._own.offered, **self._peers.offered}
        is_same = every.keys() == self._seen.keys()
        if not is_same or any(each is not self._seen[node] for node, each in every.items()):
            self._seen = every
            self._differences = differences(every)
            self._ids = frozenset[str]().union(*every.values())
