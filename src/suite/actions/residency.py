"""load_model, unload_model, pin_model, unpin_model and release_model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import anyio
import msgspec
from msgspec.structs import replace

from suite.actions.gathering import gathered
from suite.bus.service import Call, action
from suite.catalogue import Model
from suite.errors import (
    Cancelled,
    GenerationFailed,
    InvalidRequest,
    LoadFailed,
    LogNotWritable,
    Overloaded,
    SuiteError,
)
from suite.messages.actions.residency import (
    LoadModelReply,
    LoadModelRequest,
    PinModelReply,
    PinModelRequest,
    ReleaseModelReply,
    ReleaseModelRequest,
    UnloadModelReply,
    UnloadModelRequest,
    UnpinModelReply,
    UnpinModelRequest,
)
from suite.messages.actor import AdapterFile
from suite.node.adapters import given_adapters
from suite.node.heartbeats import beating
from suite.node.instance import Instance
from suite.node.node import Node, context_warnings

_Changed = TypeVar("_Changed", UnpinModelReply, ReleaseModelReply)

UNLOAD_SECONDS = 30.0
"""How long other nodes may take to unload a model when its generations have ended."""
WAITING = 1024
"""The most requests that wait for loads. Each costs only a task; those of one model must not block others."""


@action("load_model", limit=WAITING, queue=0, route="model")
async def load_model(node: Node, request: LoadModelRequest, call: Call) -> LoadModelReply:
    """Load a model and answer when it is ready."""
    _check_of_node(
        call, purpose=request.purpose != "request", only_evicting=request.only_evicting is not None
    )
    signalled = call if request.stream else None
    with anyio.CancelScope() as scope:
        async with beating(signalled, scope.cancel):
            model = await node.loadable(request.model_id)
            warnings = context_warnings(model, request.context_length)
            adapters = await given_adapters(
                node.settings, node.catalogue, model, request.model_id, (), new_id=node.new_id
            )
            node.check_name(node.catalogue.meant(request.model_id), model)
            reply = await _load(node, model, adapters, request, call)
            return msgspec.structs.replace(reply, warnings=warnings)
    raise Cancelled("nobody waits for this load any more")


async def _load(
    node: Node, model: Model, adapters: tuple[AdapterFile, ...], request: LoadModelRequest, call: Call
) -> LoadModelReply:
    """`adapters`: those that the name of the model stands for, which are ready too when it is."""
    send = call.send if request.stream else None
    terms = msgspec.structs.replace(
        node.terms(request.load_wait_ms, request.keep_alive, stream=request.stream),
        purpose=request.purpose,
        only_evicting=request.only_evicting,
    )
    async with node.supervisor.hold(model, terms, correlation_id=call.request_id, tell=send) as instance:
        if request.wait:
            await instance.wait_loaded(send)
            await _load_adapters(node, instance, adapters, request.model_id)
        loaded = instance.phase == "loaded"
        if loaded and instance.unrecorded is not None:
            raise _unrecorded(f"{model.model_id} is loaded", instance.unrecorded)
        where = f" on {node.name}" if node.fleet.others or request.node is not None else ""
        return LoadModelReply(
            model_id=model.model_id,
            loaded=loaded,
            message=f"{model.model_id} is {'loaded' if loaded else 'being loaded'}{where}",
            seq=instance.seq,
            load_ms=instance.load_ms or 0.0,
            resident_bytes=instance.resident_bytes,
        )


async def _load_adapters(
    node: Node, instance: Instance, adapters: tuple[AdapterFile, ...], name: str
) -> None:
    """Raises LoadFailed if one of them cannot be loaded."""
    if not adapters:
        return
    try:
        await node.actors.load_adapters(instance, adapters)
    except GenerationFailed as error:
        raise LoadFailed(f"{name}: {error.message}") from None


def _unloaded(_: UnloadModelRequest, replies: Mapping[str, UnloadModelReply]) -> UnloadModelReply:
    """The reply for all nodes: they have unloaded it, those where it was not loaded too."""
    done = {node: each for node, each in replies.items() if each.seq is not None}
    if not done:
        return next(iter(replies.values()))
    node, first = next(iter(done.items()))
    return replace(
        first,
        node=node,
        message=_where(first.message, done),
        seq=max(each.seq or 0 for each in done.values()),
        freed_bytes=sum(each.freed_bytes for each in done.values()),
    )


def _unload_seconds(request: UnloadModelRequest) -> float:
    return request.drain_ms / 1000 + UNLOAD_SECONDS


@action("unload_model", route="each")
async def unload_model(node: Node, request: UnloadModelRequest, call: Call) -> UnloadModelReply:
    """Unload a model and answer when its memory is freed."""
    _check_of_node(call, reason=request.reason != "requested")
    return await _unload(node, request, call)


@gathered("unload_model", _unloaded, seconds=_unload_seconds, changes=True)
async def _unload(node: Node, request: UnloadModelRequest, call: Call) -> UnloadModelReply:
    model = node.model(request.model_id)
    if request.reason == "spare":
        _check_idle(node, model.model_id)
    instance = await node.supervisor.unload(
        model.model_id,
        request.reason,
        drain_seconds=request.drain_ms / 1000,
        requested_by=call.client or "",
    )
    if instance is None:
        return UnloadModelReply(
            model_id=model.model_id,
            unloaded=True,
            message=f"{model.model_id} was not loaded",
            seq=None,
            freed_bytes=0,
        )
    if instance.unrecorded is not None:
        raise _unrecorded(f"{model.model_id} is unloaded", instance.unrecorded)
    return UnloadModelReply(
        model_id=model.model_id,
        unloaded=True,
        message=f"{model.model_id} is unloaded",
        seq=instance.seq,
        freed_bytes=instance.freed_bytes,
    )


@action("pin_model", route="model")
async def pin_model(node: Node, request: PinModelRequest, _: Call) -> PinModelReply:
    """Keep a model loaded, also after a restart."""
    model = await node.loadable(request.model_id)
    seq = await node.pins.pin(model, may_move=request.node is None)
    was = " already" if seq is None else ""
    return PinModelReply(
        model_id=model.model_id,
        node=node.name,
        message=f"{model.model_id} is pinned on {node.name}{was}",
        seq=seq,
    )


def _unpinned(_: UnpinModelRequest, replies: Mapping[str, UnpinModelReply]) -> UnpinModelReply:
    """The reply for all nodes: where it was pinned, or else that it was nowhere."""
    return _changed(replies, "{} was not pinned on any node", "{} is not pinned on {} any more")


@action("unpin_model", route="each")
@gathered("unpin_model", _unpinned, changes=True)
async def unpin_model(node: Node, request: UnpinModelRequest, _: Call) -> UnpinModelReply:
    """Stop keeping a model loaded."""
    node.pins.on_unpin(node.fleet.canonical(request.model_id))
    model_id = node.pins.id_of(request.model_id)
    seq = await node.pins.unpin(model_id)
    return UnpinModelReply(
        model_id=model_id,
        node=node.name,
        message=f"{model_id} was not pinned on {node.name}"
        if seq is None
        else f"{model_id} is not pinned on {node.name} any more",
        seq=seq,
    )


def _released(_: ReleaseModelRequest, replies: Mapping[str, ReleaseModelReply]) -> ReleaseModelReply:
    """The reply for all nodes: where it was quarantined, or else that it was nowhere."""
    done = "{} is not quarantined on {} any more: the next request loads it"
    return _changed(replies, "{} was not quarantined on any node", done)


@action("release_model", route="each")
@gathered("release_model", _released, changes=True)
async def release_model(node: Node, request: ReleaseModelRequest, _: Call) -> ReleaseModelReply:
    """End the quarantine of a model."""
    model_id = node.model(request.model_id).model_id
    seq = await node.supervisor.quarantine.release(model_id)
    if (name := node.catalogue.meant(request.model_id)) in node.catalogue.variants:
        # Either keeps the name from being served, and a pause that is long over is found as well.
        seq_of_name = await node.supervisor.quarantine.release(name)
        model_id, seq = (name, seq_of_name) if seq is None else (model_id, seq)
    return ReleaseModelReply(
        model_id=model_id,
        node=node.name,
        message=f"{model_id} was not quarantined on {node.name}"
        if seq is None
        else f"{model_id} is not quarantined on {node.name} any more: the next request loads it",
        seq=seq,
    )


def _check_of_node(call: Call, **given: bool) -> None:
    """Check that a client has not given what only nodes send to each other. Raises InvalidRequest."""
    for field, is_given in given.items():
        if is_given and not call.is_of_node:
            raise InvalidRequest(f"field {field!r} is only for what nodes ask of each other: leave it out")


def _check_idle(node: Node, model_id: str) -> None:
    """Check that nobody uses a spare copy: what is generated there would be cut. Raises Overloaded."""
    instance = node.supervisor.instances.get(model_id)
    if instance is not None and not instance.is_idle:
        raise Overloaded(f"{model_id} is in use on {node.name}: its copy stays")


def _changed(replies: Mapping[str, _Changed], nowhere: str, done: str) -> _Changed:
    """The reply of a node on which something changed, as one for all such nodes; else that nothing did."""
    changed = {node: each for node, each in replies.items() if each.seq is not None}
    first = next(iter(changed.values() or replies.values()))
    if not changed:
        return replace(first, message=nowhere.format(first.model_id))
    message = done.format(first.model_id, ", ".join(changed))
    return replace(first, message=message, seq=max(each.seq or 0 for each in changed.values()))


def _where(message: str, nodes: Iterable[str]) -> str:
    return f"{message} on {', '.join(nodes)}"


def _unrecorded(what: str, reason: SuiteError) -> LogNotWritable:
    return LogNotWritable(f"{what}, but that is not in the log yet, and follows by itself: {reason}")
