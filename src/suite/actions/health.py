"""health_check, get_stats and get_log_end."""

from __future__ import annotations

from contextlib import suppress

import msgspec
from msgspec.structs import replace

from suite.actions.best_effort import best_effort_read
from suite.actions.gathering import gathered
from suite.actions.memories import memories
from suite.actions.merged_health import merged_health, merged_stats
from suite.bus.service import Call, action
from suite.errors import ReadModelBehind, ReadModelUnavailable
from suite.log import told
from suite.messages.actions.status import (
    BreakerInfo,
    GetLogEndReply,
    GetLogEndRequest,
    GetStatsReply,
    GetStatsRequest,
    HealthCheckReply,
    HealthCheckRequest,
    LogServers,
    NodeHealth,
    NodeStats,
    OldStats,
)
from suite.node.node import Node
from suite.projections.catalogue import totals
from suite.projections.samples import count_samples
from suite.projections.scores import count_evaluations
from suite.version import __version__


@action("health_check", route="each", is_lookup=True)
async def health_check(node: Node, request: HealthCheckRequest, call: Call) -> HealthCheckReply:
    """Check the health of the nodes: it is HEALTHY, or degraded with the problems."""
    return _with_missing(await _health(node, request, call))


@gathered("health_check", merged_health)
async def _health(node: Node, _: HealthCheckRequest, __: Call) -> HealthCheckReply:
    return health(node)


def _with_missing(reply: HealthCheckReply) -> HealthCheckReply:
    """The health of a fleet some nodes of which are missing."""
    if not reply.missing_nodes:
        return reply
    problems = [f"node {name} does not answer: see whether it runs" for name in reply.missing_nodes]
    return replace(reply, status="degraded", problems=(*reply.problems, *problems))


def health(node: Node) -> HealthCheckReply:
    """The health of this node alone."""
    of_the_log = (node.log.writability.problem, node.cluster.problem, node.integrity.problem)
    problems = (
        *(problem for problem in of_the_log if problem is not None),
        *node.projections.problems,
        *node.projections.losses,
        *node.catalogue.problems,
        *node.learning.problems,
        *node.pins.problems,
        *node.fleet.peers.problems,
        *node.fleet.inventory.differences.files,
        *(() if node.gateway is None or node.gateway.problem is None else (node.gateway.problem,)),
    )
    if not node.connection.is_connected:  # NATS clients cannot see this, but ZeroMQ clients can
        problems += (
            "NATS cannot be reached: it is tried again until it can, and nothing is answered till then",
        )
    foreign = node.foreign.found
    breakers = breakers_of(node)
    problems += tuple(
        f"the service {each.name} is in dependencies, and does not answer: start it, or take it out there"
        for each in breakers
        if each.kind == "dependency" and each.state != "closed"
    )
    own = NodeHealth(
        node=node.name,
        status="degraded" if problems else "HEALTHY",
        version=__version__,
        uptime=node.clock() - node.started,
        models_loaded=node.models_loaded,
        models_tracked=len(node.catalogue.models),
        confinement=node.supervisor.confinement.found,
        cores=node.supervisor.cores.processors.cores.value,
    )
    return HealthCheckReply(
        status=own.status,
        problems=problems,
        node=node.name,
        version=__version__,
        uptime=own.uptime,
        timestamp=node.now().strftime("%Y-%m-%d %H:%M:%S"),
        models_loaded=own.models_loaded,
        models_tracked=own.models_tracked,
        commands_processed=node.commands_processed,
        foreign_messages=foreign.messages,
        first_foreign_message=None if foreign.first is None else told(foreign.first),
        nodes=tuple(sorted({node.name, *node.fleet.others})),
        stopping=node.fleet.stopping,
        draining=node.fleet.draining,
        node_health=(own,),
        fleet_models=_fleet_models(node),
        warnings=node.fleet.inventory.differences.settings,
        log_servers=_log_servers(node),
        breakers=tuple(each for each in breakers if each.state != "closed"),
    )


def breakers_of(node: Node) -> tuple[BreakerInfo, ...]:
    """The circuit breakers of this node, its quarantined models among them."""
    models = node.supervisor.quarantine.breakers(node.models)
    return (*node.breakers.infos(), *sorted(models, key=lambda each: each.name))


def _log_servers(node: Node) -> LogServers | None:
    if (found := node.cluster.log) is None:
        return None
    return LogServers(
        replicas=found.replicas,
        leader=found.leader,
        current=found.current,
        missing=found.missing,
        survives_loss=found.survives_loss,
    )


@action("get_stats", route="each", is_lookup=True)
@gathered("get_stats", merged_stats)
async def get_stats(node: Node, _: GetStatsRequest, __: Call) -> GetStatsReply:
    """Get counts since the nodes' start, and their memory; ``metrics`` has the counts of older services."""
    own = _stats(node)
    return GetStatsReply(
        **msgspec.structs.asdict(own),
        memories=memories(node.supervisor),
        last_seq=node.last_seq,
        metrics=await _old_stats(node),
        projections=tuple(each.info for each in node.projections.by_name.values()),
        node_stats=(own,),
        fleet_models=_fleet_models(node),
        breakers=breakers_of(node),
    )


def _stats(node: Node) -> NodeStats:
    counts, residency = node.supervisor.lifecycle.counts, node.supervisor.residency
    return NodeStats(
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
        generations_running=node.supervisor.leases.running,
        prompt_tokens=counts["prompt_tokens"],
        reused_tokens=counts["reused_tokens"],
        completion_tokens=counts["completion_tokens"],
        memory_limit_bytes=residency.limit_bytes.ram,
        memory_reserved_bytes=residency.reserved_bytes.ram,
    )


def _fleet_models(node: Node) -> int:
    """How many models all nodes have together."""
    return len(node.fleet.inventory.model_ids | node.catalogue.models.keys())


@action("get_log_end", is_lookup=True)
async def get_log_end(node: Node, _: GetLogEndRequest, __: Call) -> GetLogEndReply:
    """Where the log ends: what a reader of its mirror waits for, to miss nothing."""
    return GetLogEndReply(last_seq=(await node.log.extent()).last_seq)


async def _old_stats(node: Node) -> OldStats:
    """The counts of the older services; null while a read model is unavailable, not to fail the rest."""
    loads = unloads = samples = evaluations = None
    with suppress(ReadModelBehind, ReadModelUnavailable):
        async with best_effort_read(node.projections.catalogue, node.last_seq) as db:
            if db is not None:
                residency = await totals(db)
                loads, unloads = residency.models_loaded_ever, residency.models_unloaded_ever
    with suppress(ReadModelBehind, ReadModelUnavailable):
        async with best_effort_read(node.projections.evaluation, node.last_seq) as db:
            if db is not None:
                samples, evaluations = await count_samples(db), await count_evaluations(db)
    return OldStats(
        performance_logs=samples,
        trust_score_updates=evaluations,
        models_tracked=len(node.catalogue.models),
        predictions_made=node.predictions_made,
        models_loaded=loads,
        models_unloaded=unloads,
    )
