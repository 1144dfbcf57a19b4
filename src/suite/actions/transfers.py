"""push_model."""

from __future__ import annotations

import anyio

from suite.bus.service import Call, action
from suite.catalogue.variants import applied
from suite.errors import Cancelled, NodeNotFound
from suite.messages.actions.transfers import PushedModel, PushModelReply, PushModelRequest
from suite.messages.signals import Copying
from suite.node.heartbeats import beating
from suite.node.node import Node
from suite.node.transfers.needs import Needs, needs_of_model


@action("push_model", limit=16, queue=64, route="model")
async def push_model(node: Node, request: PushModelRequest, call: Call) -> PushModelReply:
    """Copy the files that a model needs to nodes that have not got them."""
    with anyio.CancelScope() as scope:
        async with beating(call if request.stream else None, scope.cancel):
            return await _push(node, request, call)
    raise Cancelled("nobody waits for this copy any more: push the model again, and it goes on from here")


async def _push(node: Node, request: PushModelRequest, call: Call) -> PushModelReply:
    async def tell(copying: Copying) -> None:
        if request.stream:
            await call.send(copying)

    nodes = _targets(node, request.nodes)
    needs = await _needs(node, request.model_id)
    pushed = await node.transfers.pushes.push(needs, [each for each in nodes if each != node.name], tell)
    here = PushedModel(node=node.name, state="present", model_id=needs.name, path=str(needs.own.path))
    outcomes = [*([here] if node.name in nodes else []), *pushed.outcomes]
    return PushModelReply(
        model_id=needs.name,
        node=node.name,
        bytes=pushed.bytes,
        sha256=pushed.sha256,
        nodes=tuple(sorted(outcomes, key=lambda each: each.node)),
    )


async def _needs(node: Node, model_id: str) -> Needs:
    """What is copied so that a name is served elsewhere.

    Raises what `Node.loadable` raises, and AdapterNotFound and AdapterMismatch for what is not served here.
    """
    catalogue = node.catalogue
    name = catalogue.meant(model_id)
    file, variant = catalogue.models.get(name), catalogue.variants.get(name)
    if variant is None and file is not None and file.adapter is not None:
        await catalogue.look(file)  # it is an adapter for several models, so it goes alone
        return Needs(name, file, (file,))
    model = await node.loadable(model_id)
    chosen = variant.adapters if variant is not None else ()
    adapters = [each for each, _ in applied(model, chosen, catalogue.models)]
    needs = needs_of_model(name, model, adapters, catalogue.models)
    for each in needs.models:
        await catalogue.look(each)
    return needs


def _targets(node: Node, asked: tuple[str, ...]) -> tuple[str, ...]:
    """The nodes that are to have the model. Raises NodeNotFound."""
    others = node.fleet.others
    there = sorted({node.name, *others})
    if unknown := [name for name in asked if name not in there]:
        raise NodeNotFound(f"there is no node {unknown[0]!r}: there are {', '.join(there)}")
    if not asked and not others:
        raise NodeNotFound(f"there is no node but {node.name}, which has the model: start another one")
    return asked or tuple(there)
