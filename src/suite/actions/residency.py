"""load_model and unload_model."""

from __future__ import annotations

from suite.bus.service import Call, action
from suite.errors import LogNotWritable, SuiteError
from suite.messages.actions.residency import (
    LoadModelReply,
    LoadModelRequest,
    UnloadModelReply,
    UnloadModelRequest,
)
from suite.node.generations import beating, wait_loaded
from suite.node.node import Node

WAITING = 1024
"""The most requests that wait for loads. Each costs only a task; those of one model must not block others."""


@action("load_model", limit=WAITING, queue=0)
async def load_model(node: Node, request: LoadModelRequest, call: Call) -> LoadModelReply:
    """Load a model and answer when it is ready."""
    model = await node.loadable(request.model_id)
    send = call.send if request.stream else None
    async with beating(send), node.supervisor.hold(model, correlation_id=call.request_id) as instance:
        if request.wait:
            await wait_loaded(instance, send)
        loaded = instance.phase == "loaded"
        if loaded and instance.unrecorded is not None:
            raise _unrecorded(f"{model.model_id} is loaded", instance.unrecorded)
        return LoadModelReply(
            model_id=model.model_id,
            loaded=loaded,
            message=f"{model.model_id} is {'loaded' if loaded else 'being loaded'}",
            seq=instance.seq,
            load_ms=instance.load_ms or 0.0,
            resident_bytes=instance.resident_bytes,
        )


@action("unload_model")
async def unload_model(node: Node, request: UnloadModelRequest, _: Call) -> UnloadModelReply:
    """Unload a model and answer when its memory is freed."""
    model = node.model(request.model_id)
    instance = await node.supervisor.unload(
        model.model_id, "requested", drain_seconds=request.drain_ms / 1000
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


def _unrecorded(what: str, reason: SuiteError) -> LogNotWritable:
    return LogNotWritable(f"{what}, but that is not in the log yet, and follows by itself: {reason}")
