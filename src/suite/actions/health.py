"""health_check and get_stats."""

from __future__ import annotations

from suite import __version__
from suite.actors.node import Node
from suite.bus.service import Call, action
from suite.messages.actions import (
    GetStatsReply,
    GetStatsRequest,
    HealthCheckReply,
    HealthCheckRequest,
)


@action("health_check")
async def health_check(node: Node, _: HealthCheckRequest, __: Call) -> HealthCheckReply:
    """The node answers, so it is well."""
    return HealthCheckReply(
        node=node.name,
        version=__version__,
        uptime=node.clock() - node.started,
        timestamp=node.now().strftime("%Y-%m-%d %H:%M:%S"),
        models_loaded=node.models_loaded,
        models_tracked=len(node.catalogue.models),
        commands_processed=node.commands_processed,
    )


@action("get_stats")
async def get_stats(node: Node, _: GetStatsRequest, __: Call) -> GetStatsReply:
    """Counts since the node's start, and its memory now."""
    counts, residency = node.supervisor.counts, node.supervisor.residency
    return GetStatsReply(
        node=node.name,
        epoch=node.journal.epoch,
        uptime_ms=(node.clock() - node.started) * 1000,
        models_tracked=len(node.catalogue.models),
        models_loaded=node.models_loaded,
        commands_processed=node.commands_processed,
        loads=counts["loads"],
        unloads=counts["unloads"],
        crashes=counts["crashes"],
        generations=counts["generations"],
        generations_running=sum(each.running for each in node.supervisor.instances.values()),
        prompt_tokens=counts["prompt_tokens"],
        reused_tokens=counts["reused_tokens"],
        completion_tokens=counts["completion_tokens"],
        memory_limit_bytes=residency.limit_bytes,
        memory_reserved_bytes=residency.reserved_bytes,
        last_seq=node.journal.last_seq,
    )
