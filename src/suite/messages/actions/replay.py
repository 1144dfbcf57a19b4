"""Replaying what was asked for, in virtual time: what other rules or other memory would have come to."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.messages.actions.base import NodeName, Reply, Request

PolicyName: TypeAlias = Literal["best_lately", "relaxed_belady", "greedy_dual", "decayed_frequency", "lru"]
"""The eviction policies that come with the service. `suite replay` also replays those of somebody's own."""


class ReplayHistoryRequest(Request, frozen=True, kw_only=True):
    """Replay the newest uses of the log under several policies and budgets. One at a time on each node."""

    policies: Annotated[tuple[PolicyName, ...], Meta(max_length=5)] = ("best_lately",)
    """Beside these are always LRU, times to live, and Belady's rule, which knows the future."""
    memory_gb: Annotated[tuple[Annotated[float, Meta(gt=0, le=1e6)], ...], Meta(max_length=6)] = ()
    """The budgets, in GB. Empty: half, all and twice of what models may have on the node that answers."""
    with_bets: bool = True
    """Whether models are also loaded before they are asked for, by the default policy."""
    of_node: NodeName = None
    """Only what this node did. Null: all nodes, taken for one."""
    requests: Annotated[int, Meta(ge=1, le=100_000)] = 10_000
    """The newest so many uses are replayed."""
    stream: bool = False
    """Whether to send signals that say how far it is. It is ended when nobody receives them any more."""


class ReplayOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule with one budget would have come to."""

    name: str
    """The policy, how long models stay after a use if that is limited, and whether there were bets."""
    policy: str
    memory_gb: float
    with_bets: bool
    knows_future: bool
    """Nobody can have this one: it is the bound."""
    cold_percent: float
    """Cold starts per 100 requests."""
    cold_starts: int
    refused: int
    loads: int
    evictions: int
    bets_won: int
    bets_lost: int
    waited_p50_seconds: float
    waited_p95_seconds: float
    waited_seconds: float
    """All waiting for memory and loads, together."""
    gb_hours: float
    """The memory of models over time."""


class ReplayAdvice(msgspec.Struct, frozen=True, kw_only=True):
    """Which of them would have served best."""

    name: str
    memory_gb: float
    saved_seconds: float
    """How much less would have been waited than with LRU and as much memory."""
    is_certain: bool
    """Whether the history is long enough, and the saving clear enough, to be sure of it."""
    sentences: tuple[str, ...]
    """In plain English."""


class ReplayHistoryReply(Reply, frozen=True, kw_only=True):
    """The outcomes, by budget."""

    requests: int
    models: int
    hours: float
    remarks: tuple[str, ...]
    """What a person should know of how it was read and replayed."""
    outcomes: tuple[ReplayOutcome, ...]
    advice: ReplayAdvice
