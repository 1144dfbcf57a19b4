"""The client's methods for usage, errors, the fleet, and rebuilding read models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, Unpack

from suite.client.asking import Asking
from suite.client.windows import Page, Window
from suite.messages.actions.base import Moment
from suite.messages.actions.explanation import ExplainReply, ExplainRequest
from suite.messages.actions.projections import (
    GetErrorGroupsReply,
    GetErrorGroupsRequest,
    GetErrorsReply,
    GetErrorsRequest,
    GetFleetReply,
    GetFleetRequest,
    RebuildProjectionReply,
    RebuildProjectionRequest,
)
from suite.messages.actions.usage import (
    RecordUsageReply,
    RecordUsageRequest,
    UsageKey,
    UsageReply,
    UsageRequest,
)
from suite.messages.events import Severity
from suite.messages.signals import Folded, Signal

ProjectionName: TypeAlias = Literal["catalogue", "usage", "evaluation", "errors", "history"]


class Records(Asking):
    """The actions for usage, errors, the fleet and read models. Times and ``min_seq``: see `Evaluations`."""

    # --- usage --------------------------------------------------------------------------------------------

    async def record_usage(
        self, model_id: str, usage_type: str = "inference", *, conversation_id: str | None = None
    ) -> RecordUsageReply:
        """Record that a model was used elsewhere; the service need not know the model. Each call counts."""
        request = RecordUsageRequest(
            model_id=model_id, usage_type=usage_type, conversation_id=conversation_id
        )
        return await self._ask("record_usage", request, RecordUsageReply)

    async def usage(
        self,
        *,
        model_id: str | None = None,
        conversation_id: str | None = None,
        group_by: Sequence[UsageKey] = ("model",),
        limit: int = 100,
        **window: Unpack[Window],
    ) -> UsageReply:
        """Count the uses of models, grouped by these keys."""
        request = UsageRequest(
            model_id=model_id,
            conversation_id=conversation_id,
            group_by=tuple(group_by),
            limit=limit,
            **window,
        )
        return await self._ask("usage", request, UsageReply)

    # --- errors, the fleet, the read models ---------------------------------------------------------------

    async def get_errors(
        self,
        *,
        severity: Severity | None = None,
        model_id: str | None = None,
        error_type: str | None = None,
        **page: Unpack[Page],
    ) -> GetErrorsReply:
        """Get a page of errors, newest first."""
        request = GetErrorsRequest(severity=severity, model_id=model_id, error_type=error_type, **page)
        return await self._ask("get_errors", request, GetErrorsReply)

    async def get_error_groups(
        self,
        *,
        severity: Severity | None = None,
        model_id: str | None = None,
        error_type: str | None = None,
        **page: Unpack[Page],
    ) -> GetErrorGroupsReply:
        """Count errors by their type, model and node, first the group that has the newest one."""
        request = GetErrorGroupsRequest(severity=severity, model_id=model_id, error_type=error_type, **page)
        return await self._ask("get_error_groups", request, GetErrorGroupsReply)

    async def explain(
        self,
        model_id: str | None = None,
        *,
        seq: int | None = None,
        at: Moment | None = None,
        limit: int = 10,
        min_seq: int = 0,
    ) -> ExplainReply:
        """Explain why a model is loaded, waits or is not loaded, or what one event decided.

        With neither: all models that are in memory or waited for. ``at`` is a moment of the past.
        Raises ModelNotFound, NotADecision, EventGone, TimeBeforeLog.
        """
        request = ExplainRequest(model_id=model_id, seq=seq, at=at, limit=limit, min_seq=min_seq)
        return await self._ask("explain", request, ExplainReply)

    async def get_fleet(self, *, min_seq: int = 0) -> GetFleetReply:
        """Get the models of all nodes, including nodes that are down."""
        return await self._ask("get_fleet", GetFleetRequest(min_seq=min_seq), GetFleetReply)

    async def rebuild_projection(
        self,
        name: ProjectionName,
        *,
        force: bool = False,
        on_progress: Callable[[float], None] | None = None,
    ) -> RebuildProjectionReply:
        """Rebuild a read model from the log; the current one answers queries until the new one is complete.

        ``on_progress`` is called with the progress, 0 to 1. Requires the role operator. Raises Conflict while
        it is being rebuilt already, and RebuildWouldLose when the log has lost events that are in it, unless
        ``force`` is given.
        """

        def hear(signal: Signal) -> None:
            if on_progress is not None and isinstance(signal, Folded):
                on_progress(signal.fraction)

        request = RebuildProjectionRequest(name=name, stream=True, force=force)
        return await self._exchange("rebuild_projection", request, RebuildProjectionReply, hear)
