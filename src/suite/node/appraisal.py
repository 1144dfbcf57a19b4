"""What the eviction policy says of the models in memory, for the decision who leaves (ADR 44)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

import msgspec

from suite.identity import Now
from suite.messages.decisions import Decision, PolicyState
from suite.node.instance import Instance
from suite.prediction.eviction.appraiser import Appraiser
from suite.prediction.eviction.policy import Candidate


class Held(NamedTuple):
    """An instance and the memory that it counts for, where memory is short."""

    instance: Instance
    bytes: int


class Appraisal(msgspec.Struct, frozen=True, kw_only=True):
    """The worth of models at one moment."""

    policy: str = ""
    policy_state: PolicyState | None = None
    worth: Mapping[str, float] = {}
    """By model; the lowest leaves first."""
    reload_seconds: Mapping[str, float] = {}
    """By model: what it takes to have it again as it is."""

    def signed(self, decision: Decision) -> Decision:
        """A decision that was made with these worths, with whose they are."""
        return msgspec.structs.replace(decision, policy=self.policy, policy_state=self.policy_state)


Appraise: TypeAlias = Callable[[Iterable[Held], str], Appraisal]
"""Says what models are worth in the memory of this name."""


NO_APPRAISAL: Final = Appraisal()
"""Without a policy: models leave in the order of their last uses."""


class Appraisals:
    """Asks the eviction policy of a node."""

    def __init__(self, appraiser: Appraiser, *, now: Now) -> None:
        self._appraiser = appraiser
        self._now = now

    def __call__(self, held: Iterable[Held], memory: str) -> Appraisal:
        """What the policy says now, and what it says it from."""
        appraiser, now = self._appraiser, self._now()
        candidates = [self._candidate(each) for each in held]
        return Appraisal(
            worth=appraiser.worth(candidates, now),
            reload_seconds={each.model_id: each.reload_seconds for each in candidates},
            policy=appraiser.policy,
            policy_state=PolicyState(
                follows=appraiser.follows,
                first_seq=appraiser.first_seq,
                last_seq=appraiser.last_seq,
                limit_bytes=appraiser.limit_bytes.ram,
                gpus=dict(appraiser.limit_bytes.gpus),
                memory=memory,
                at=now,
            ),
        )

    def _candidate(self, held: Held) -> Candidate:
        instance, costs = held.instance, self._appraiser.costs
        model_id, load_seconds = instance.model.model_id, costs.load_seconds(instance.load_key)
        if load_seconds is None:  # its first load is not in the log, or not read yet
            load_seconds = (instance.process_ms or 0.0) / 1000
        read_seconds = costs.read_seconds(model_id, instance.unsaved_tokens)
        return Candidate(
            model_id=model_id,
            bytes=held.bytes,
            reload_seconds=round(load_seconds + read_seconds, 6),
        )
