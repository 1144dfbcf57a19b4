"""drain_node."""

from __future__ import annotations

from collections import Counter
from typing import Final

import anyio

from suite.bus.service import Call, action
from suite.errors import Cancelled, InvalidRequest, RequestTimeout
from suite.explanation.words import counted
from suite.messages.actions.drain import DrainNodeReply, DrainNodeRequest, MovedModel
from suite.messages.signals import Draining
from suite.node.heartbeats import beating
from suite.node.node import Node

LOOK_SECONDS: Final = 0.2
"""How often it is looked at what the node still does."""


@action("drain_node")
async def drain_node(node: Node, request: DrainNodeRequest, call: Call) -> DrainNodeReply:
    """Take a node out of service, and answer when it has nothing to do any more."""
    if request.node is None:
        raise InvalidRequest("field 'node' is missing: name the node to drain")
    if request.undo:
        seq = await node.drain.undo(call.client or "")
        done = "takes work again" if seq is not None else "was not being drained"
        return _reply(node, seq, f"{node.name} {done}")
    seq = await node.drain.begin(call.client or "")
    if not request.wait:
        return _reply(node, seq, f"{node.name} is being drained")
    with anyio.CancelScope() as scope:
        async with beating(call if request.stream else None, scope.cancel):
            with anyio.move_on_after(request.wait_ms / 1000) as waiting:
                await _until_drained(node, call if request.stream else None)
            if waiting.cancelled_caught:
                raise RequestTimeout(await _left(node, request.wait_ms / 1000))
        return _reply(node, seq, _said(node))
    raise Cancelled("nobody waits for this any more: the node is still being drained")


async def _until_drained(node: Node, call: Call | None) -> None:
    told: Draining | None = None
    while node.drain.is_on and (now := _now(node)) is not None:
        if call is not None and now != told:
            await call.send(now)
            told = now
        await anyio.sleep(LOOK_SECONDS)


def _now(node: Node) -> Draining | None:
    """What the node still does; None if it has nothing to do."""
    generations = node.generations.pending + node.supervisor.leases.running
    if not node.drain.is_moving and not generations:
        return None
    return Draining(node=node.name, generations=generations, loading=node.drain.loading)


async def _left(node: Node, seconds: float) -> str:
    """What a node still does, and why that may not end."""
    left = f"{node.name} still has something to do after {seconds:g} s"
    if node.drain.loading is not None:
        return f"{left}: {node.drain.loading} is being loaded elsewhere; the drain goes on"
    why = {each.model_id: f", {each.problem}" for each in node.drain.moved if each.problem is not None}
    counts = Counter(each.model_id for each in await node.generations.running(None))
    if not counts:  # the last one has ended in this moment
        return f"{left}; the drain goes on"
    serves = "; ".join(
        f"{id} ({counted(count, 'generation')}{why.get(id, '')})" for id, count in counts.items()
    )
    return f"{left}: it serves {serves}. It gets nothing new that another node has; the drain goes on"


def _said(node: Node) -> str:
    if not node.drain.is_on:
        return f"{node.name} takes work again: somebody has undone its drain"
    if node.fleet.others.keys() <= set(node.fleet.draining):
        return (
            f"{node.name} has nothing to do now, but no other node takes work: what is asked for is still "
            "served here, and by nobody once it is stopped"
        )
    left = ", ".join(each.model_id for each in node.drain.moved if each.node is None)
    without = f", but no other node has loaded {left}" if left else ""
    return f"{node.name} has nothing to do any more and can be stopped{without}"


def _reply(node: Node, seq: int | None, message: str) -> DrainNodeReply:
    moved: tuple[MovedModel, ...] = node.drain.moved if node.drain.is_on else ()
    return DrainNodeReply(node=node.name, draining=node.drain.is_on, message=message, seq=seq, models=moved)
