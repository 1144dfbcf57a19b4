"""get_errors, get_error_groups, get_fleet and rebuild_projection."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain
from typing import Final

from msgspec.structs import replace

from suite.actions.gathering import gathered
from suite.bus.service import Call, action
from suite.messages.actions.projections import (
    GetErrorGroupsReply,
    GetErrorGroupsRequest,
    GetErrorsReply,
    GetErrorsRequest,
    GetFleetReply,
    GetFleetRequest,
    NodeRebuild,
    RebuildProjectionReply,
    RebuildProjectionRequest,
)
from suite.messages.signals import Folded
from suite.node.heartbeats import beating
from suite.node.node import Node
from suite.projections.catalogue import fleet
from suite.projections.errors import error_groups, errors

REBUILD_SECONDS: Final = 3600.0
"""How long other nodes may take to rebuild a read model; one that is lost is not waited for."""


@action("get_errors", is_lookup=True)
async def get_errors(node: Node, request: GetErrorsRequest, _: Call) -> GetErrorsReply:
    """Get errors, newest first."""
    if request.model_id is not None:
        request = replace(request, model_id=node.fleet.canonical(request.model_id))
    async with node.projections.errors.reading(request.min_seq, own_seq=node.last_seq) as db:
        return await errors(db, request)


@action("get_error_groups", is_lookup=True)
async def get_error_groups(node: Node, request: GetErrorGroupsRequest, _: Call) -> GetErrorGroupsReply:
    """Count errors by their type, model and node."""
    if request.model_id is not None:
        request = replace(request, model_id=node.fleet.canonical(request.model_id))
    async with node.projections.errors.reading(request.min_seq, own_seq=node.last_seq) as db:
        return await error_groups(db, request)


@action("get_fleet", is_lookup=True)
async def get_fleet(node: Node, request: GetFleetRequest, _: Call) -> GetFleetReply:
    """Get the models of all nodes, with statistics of their loads."""
    async with node.projections.catalogue.reading(request.min_seq, own_seq=node.last_seq) as db:
        return _with_draining(await fleet(db, request), node.fleet.draining)


def _with_draining(reply: GetFleetReply, draining: Collection[str]) -> GetFleetReply:
    """The reply with the nodes marked that take no new work."""
    if not draining:
        return reply
    models = (
        replace(
            model, files=tuple(replace(file, node_draining=file.node in draining) for file in model.files)
        )
        for model in reply.models
    )
    return replace(reply, models=tuple(models))


def _rebuilt(
    _: RebuildProjectionRequest, replies: Mapping[str, RebuildProjectionReply]
) -> RebuildProjectionReply:
    """The reply for all nodes."""
    every = replies.values()
    return replace(
        next(iter(every)),
        seconds=max(each.seconds for each in every),
        seq=min(each.seq for each in every),
        rebuilt=tuple(chain.from_iterable(each.rebuilt for each in every)),
    )


@action("rebuild_projection", route="each")
@gathered("rebuild_projection", _rebuilt, seconds=lambda _: REBUILD_SECONDS, changes=True)
async def rebuild_projection(
    node: Node, request: RebuildProjectionRequest, call: Call
) -> RebuildProjectionReply:
    """Rebuild a read model from the log, while the live one goes on answering."""

    async def tell(fraction: float) -> None:
        await call.send(Folded(name=request.name, fraction=fraction))

    async with beating(call if request.stream else None):
        rebuilt = await node.projections.by_name[request.name].rebuild(
            tell if request.stream else None, force=request.force
        )
    node.integrity.ask(accept=request.force)
    own = NodeRebuild(node=node.name, events=rebuilt.events, seconds=rebuilt.seconds, seq=rebuilt.seq)
    return RebuildProjectionReply(
        name=request.name,
        events=own.events,
        seconds=own.seconds,
        seq=own.seq,
        rebuilt=(own,),
    )
