"""What a decision about memory has weighed: the models that could have left, and what would have changed it.

The decider fills these in when it decides (`suite.domain.turn_plan`); events carry them, and `suite explain`
makes sentences of them. Spans of time count from the moment of the decision, backwards, so that the decider
needs no calendar: the time of the event says when that was.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal, TypeAlias

import msgspec

RAM: Final = "ram"
"""The name of the memory that every node has; those of GPUs are called ``gpu0``, ``gpu1`` and so on."""

Purpose: TypeAlias = Literal["request", "preload", "pin", "replica", "excess"]
"""What memory is needed for: a request that waits, a model that is likely to be used, a model that is pinned,
a copy of a model for which requests wait on other nodes, or nothing new: the models that are there turned out
to need more than the limit."""

Standing: TypeAlias = Literal[
    "idle", "kept", "used", "closing", "loading", "preloading", "unloading", "pinned", "serving", "promised"
]
"""Whether a model may leave, and why not: `idle` may; `kept` is within the least time that it stays; `used`
is answering; `closing` takes no new requests and leaves when it is unused; `loading`, `unloading` and
`pinned` say it; `preloading` is loading because it is likely to be used, and gives way to a request;
`serving` serves under an alias to which another version is being promoted; `promised` leaves for another
model that waits in front."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model in memory when the decision was made."""

    model_id: str
    bytes: int
    """The memory that it counted for, in all memories together."""
    gpus: dict[str, int] = {}
    """The part of it on each GPU, ``gpu0`` and so on."""
    standing: Standing
    chosen: bool = False
    """Whether it leaves for this decision."""
    worth: float | None = None
    """What the eviction policy says that its memory is worth; the lowest leaves first. None: by last use."""
    reload_seconds: float | None = None
    """What it would take to have it again as it was: to load it, and to read conversations again that are
    lost with it. None: not known."""
    unused_seconds: float = 0.0
    """How long ago it was last used."""
    uses: int = 0
    """How many requests used it."""
    stays_seconds: float | None = None
    """When it may leave at the earliest, in seconds from the decision, as far as that was known. Of one that
    is `idle`: when it could have left even if nobody had waited until its turn was over."""


class Alternative(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="if"):
    """What would have been decided if one thing had been different. The decider was asked again with it."""

    starts: bool
    """Whether the load would have begun."""
    evicting: tuple[str, ...] = ()
    """The models that would have left for it."""


class MoreMemory(Alternative, frozen=True, kw_only=True, omit_defaults=True, tag="more_memory"):
    """If the limits had been higher by so much."""

    bytes: int
    """In all memories together."""
    gpus: dict[str, int] = {}
    """The part of it on each GPU."""


class NotPinned(Alternative, frozen=True, kw_only=True, omit_defaults=True, tag="not_pinned"):
    """If this model had not been pinned."""

    model_id: str


class NotUsed(Alternative, frozen=True, kw_only=True, omit_defaults=True, tag="not_used"):
    """If no request had used this model."""

    model_id: str


class UsedLater(Alternative, frozen=True, kw_only=True, omit_defaults=True, tag="used_later"):
    """If this model had been used less than so many seconds before the decision."""

    model_id: str
    unused_seconds: float


class WorthMore(Alternative, frozen=True, kw_only=True, omit_defaults=True, tag="worth_more"):
    """If the eviction policy had found this model worth more than this."""

    model_id: str
    worth: float


AnyAlternative: TypeAlias = MoreMemory | NotPinned | NotUsed | UsedLater | WorthMore


class PolicyState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an eviction policy had learned when asked. Who has it learn the same gets the same worths."""

    follows: str = ""
    """The policy that `best_lately` followed; empty for others."""
    first_seq: int = 0
    last_seq: int = 0
    """The first and the last event of the log that it had learned from; 0: none yet."""
    limit_bytes: int
    """The memory for which it was made: RAM."""
    gpus: dict[str, int] = {}
    """The limit of each GPU for which it was made."""
    memory: str = RAM
    """The memory that models were to leave: it was asked with the bytes that each of them had there."""
    at: datetime
    """For which moment it was asked."""


class GpuRoom(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a decision weighed of the memory of one GPU, as `Decision` has it for RAM."""

    name: str
    """``gpu0``, ``gpu1`` and so on."""
    need_bytes: int
    free_bytes: int
    limit_bytes: int
    left_by_others_bytes: int | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who was weighed when a model needed memory."""

    purpose: Purpose = "request"
    need_bytes: int
    free_bytes: int
    """What nobody had, less what was kept for pinned models and for models that waited in front."""
    limit_bytes: int
    left_by_others_bytes: int | None = None
    """What all models could have beside what other programs used, if that was less than the limit."""
    gpus: tuple[GpuRoom, ...] = ()
    """The same for each GPU; the numbers above are those of RAM. Empty where RAM was the only memory."""
    scarcest: str = RAM
    """The memory that was the scarcest for the load: ``ram``, or the name of a GPU's."""
    policy: str = ""
    """The eviction policy that ordered those that could leave; empty: the least recently used first."""
    policy_state: PolicyState | None = None
    """What that policy had learned."""
    candidates: tuple[Candidate, ...] = ()
    """In the order in which they would leave."""
    only_evicting: tuple[str, ...] | None = None
    """The only models that could leave for it: a preload takes memory from nobody who is likelier to need it.
    None: all that could leave at all."""
    more_candidates: int = 0
    """How many more models were in memory than `candidates` lists."""
    alternatives: tuple[AnyAlternative, ...] = ()
    waiting: int = 0
    """How many requests waited for the model."""
    waited_seconds: float = 0.0
    """How long the longest of them had waited."""
