"""push_model."""

from __future__ import annotations

import anyio

from suite.bus.service import Call, action
from suite.catalogue import Model
from suite.errors import Cancelled, NodeNotFound
from suite.messages.actions.transfers import PushedModel, PushModelReply, PushModelRequest
from suite.messages.signals import Copying
from suite.node.heartbeats import beating
from suite.node.node import Node


@action("push_model", limit=16, queue=64, route="model")
async def push_model(node: Node, request: PushModelRequest, call: Call) -> PushModelReply:
    """Copy the files of a model to nodes that have not got them."""
    with anyio.CancelScope() as scope:
        async with beating(call if request.stream else None, scope.cancel):
            return await _push(node, request, call)
    raise Cancelled("nobody waits for this copy any more: push the model again, and it goes on from here")


async def _push(node: Node, request: PushModelRequest, call: Call) -> PushModelReply:
    async def tell(copying: Copying) -> None:
        if request.stream:
            await call.send(copying)

    nodes = _targets(node, request.nodes)
    model = await _copied(node, request.model_id)
    pushes = node.transfers.pushes
    content = await pushes.content(model)
    here = [PushedModel(node=node.name, state="present", model_id=model.model_id, path=str(model.path))]
    outcomes = await pushes.push(model, content, [each for each in nodes if each != node.name], tell)
    return PushModelReply(
        model_id=model.model_id,
        node=node.name,
        bytes=content.bytes,
        sha256=content.sha256,
        nodes=tuple(sorted((here if node.name in nodes else []) + outcomes, key=lambda each: each.node)),
    )


async def _copied(node: Node, model_id: str) -> Model:
    """The model, or the adapter, whose files are copied. Raises what `Node.loadable` raises."""
    file = node.catalogue.models.get(node.catalogue.meant(model_id))
    if file is None or file.adapter is None:
        return await node.loadable(model_id)
    await node.catalogue.look(file)
    return file


def _targets(node: Node, asked: tuple[str, ...]) -> tuple[str, ...]:
    """The nodes that are to have the model. Raises NodeNotFound."""
    others = node.fleet.others
    there = sorted({node.name, *others})
    if unknown := [name for name in asked if name not in there]:
        raise NodeNotFound(f"there is no node {unknown[0]!r}: there are {', '.join(there)}")
    if not asked and not others:
        raise NodeNotFound(f"there is no node but {node.name}, which has the model: start another one")
    return asked or tuple(there)
