"""The health and the counts of several nodes, as one reply (ADR 58). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Final

from msgspec.structs import replace

from suite.actions.gathering import said
from suite.messages.actions.status import (
    COUNTS,
    GetStatsReply,
    GetStatsRequest,
    HealthCheckReply,
    HealthCheckRequest,
)

_SUMS: Final = ("models_loaded", *COUNTS, "memory_limit_bytes", "memory_reserved_bytes")


def merged_health(_: HealthCheckRequest, replies: Mapping[str, HealthCheckReply]) -> HealthCheckReply:
    """The health of all nodes: it is degraded if that of one is."""
    first, every = next(iter(replies.values())), replies.values()
    problems = said({node: each.problems for node, each in replies.items()})
    foreign = max(every, key=lambda each: each.foreign_messages)
    return replace(
        first,
        status="degraded" if problems else "HEALTHY",
        problems=problems,
        models_loaded=sum(each.models_loaded for each in every),
        models_tracked=_models(replies),
        commands_processed=sum(each.commands_processed for each in every),
        foreign_messages=foreign.foreign_messages,
        first_foreign_message=foreign.first_foreign_message,
        node_health=tuple(chain.from_iterable(each.node_health for each in every)),
        breakers=tuple(chain.from_iterable(each.breakers for each in every)),
    )


def merged_stats(_: GetStatsRequest, replies: Mapping[str, GetStatsReply]) -> GetStatsReply:
    """The counts of all nodes together, and of each."""
    first, every = next(iter(replies.values())), replies.values()
    sums = {name: sum(getattr(each, name) for each in every) for name in _SUMS}
    return replace(
        first,
        **sums,
        models_tracked=_models(replies),
        memories=tuple(chain.from_iterable(each.memories for each in every)),
        last_seq=max(each.last_seq for each in every),
        node_stats=tuple(chain.from_iterable(each.node_stats for each in every)),
        breakers=tuple(chain.from_iterable(each.breakers for each in every)),
    )


def _models(replies: Mapping[str, HealthCheckReply] | Mapping[str, GetStatsReply]) -> int:
    """How many models there are, as the node says that knows most of them."""
    return max(max(each.fleet_models, each.models_tracked) for each in replies.values())
