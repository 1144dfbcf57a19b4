"""record_usage and usage."""

from __future__ import annotations

import msgspec

from suite.bus.service import Call, action
from suite.messages.actions.usage import RecordUsageReply, RecordUsageRequest, UsageReply, UsageRequest
from suite.messages.events import UsageRecorded
from suite.node.node import Node
from suite.projections import usage as read_model


@action("record_usage")
async def record_usage(node: Node, request: RecordUsageRequest, call: Call) -> RecordUsageReply:
    """Record that a model was used; unknown models are accepted, because usage may precede registration."""
    model_id, name = node.fleet.canonical(request.model_id), node.fleet.meant(request.model_id)
    event = UsageRecorded(
        model_id=model_id,
        usage_type=request.usage_type,
        conversation_id=request.conversation_id,
        variant="" if name == model_id else name,
    )
    seq = await node.log.append(event, correlation_id=call.request_id)
    return RecordUsageReply(message=f"usage of {name} is recorded", seq=seq)


@action("usage", is_lookup=True)
async def usage(node: Node, request: UsageRequest, _: Call) -> UsageReply:
    """Count the uses of models, grouped by model, time or conversation."""
    if request.model_id is not None:
        request = msgspec.structs.replace(request, model_id=node.fleet.meant(request.model_id))
    async with node.projections.usage.reading(request.min_seq, own_seq=node.last_seq) as db:
        return await read_model.usage(db, request)
