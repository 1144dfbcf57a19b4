"""A shadow cache: who would be in memory if one policy alone had decided, and what that would have cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from suite.domain.footprint import Footprint
from suite.prediction.eviction.policy import Candidate, Evicted, EvictionPolicy, Used, in_memory

HALF_LIFE_REQUESTS: Final = 2_000
"""The half-life of the cost of a load in the shadow, in requests: what "lately" means."""
_DECAY: Final = 0.5 ** (1 / HALF_LIFE_REQUESTS)


class ShadowCache:
    """Loads and evicts nothing: it only counts.

    What its candidates have on GPUs is on those of the limit.
    """

    def __init__(self, policy: EvictionPolicy, limit_bytes: Footprint) -> None:
        self.policy = policy
        self.cost_seconds = 0.0
        """The seconds that loads would have taken lately, decayed."""
        self._limit_bytes = limit_bytes
        self._free_bytes = limit_bytes
        self._residents: dict[str, Candidate] = {}

    def use(self, use: Used, candidate: Candidate | None) -> bool:
        """Have the model of a use in the shadow, and let the policy learn of it. Returns if it was not there.

        A model without known costs was never loaded on this node: its uses are learned from all the same.
        """
        self.cost_seconds *= _DECAY
        is_cold = candidate is not None and candidate.model_id not in self._residents
        if candidate is not None and is_cold:
            self.cost_seconds += candidate.reload_seconds
            self._load(candidate, use.at)
        self.policy.fold(use)
        return is_cold

    def _load(self, candidate: Candidate, now: float) -> None:
        need_bytes = candidate.footprint
        if not need_bytes.is_within(self._limit_bytes):
            return
        if not need_bytes.is_within(self._free_bytes):
            self._make_room(need_bytes, now)
        self._residents[candidate.model_id] = candidate
        self._free_bytes -= need_bytes

    def _make_room(self, need_bytes: Footprint, now: float) -> None:
        residents = [*self._residents.values()]
        compared: Sequence[Candidate] = residents
        if self._limit_bytes.gpus:
            compared = in_memory(residents, need_bytes.scarcest(self._free_bytes))
        worths = self.policy.worths(compared, now=now)
        while not need_bytes.is_within(self._free_bytes):
            least = worths.index(min(worths))
            del worths[least]
            evicted = residents.pop(least)
            if evicted.footprint.eases(need_bytes.beyond(self._free_bytes)):
                del self._residents[evicted.model_id]
                self._free_bytes += evicted.footprint
                self.policy.fold(Evicted(at=now, candidate=evicted))
