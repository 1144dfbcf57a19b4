"""How the instances of a node ended: the event that says so, and the error for those who waited for one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from suite.catalogue.variants import digest_of
from suite.domain.exit_codes import FILE_CUT, described, was_file_cut
from suite.errors import ActorCrashed, LoadCancelled, LoadFailed, ModelUnloading, NodeStopping, SuiteError
from suite.messages.events import (
    CrashReason,
    InstanceCrashed,
    InstanceLoadFailed,
    InstanceUnloaded,
    LoadFailureReason,
    UnloadReason,
)
from suite.node.instance import Instance, Lease
from suite.node.memory_kills import MemoryKills

logger = logging.getLogger("suite.supervisor")

_OUT_OF_MEMORY = (
    "the kernel killed it for lack of memory: set memory_limit_gb lower, give models a smaller "
    "context_length, or end what else uses memory"
)
_FILE_CHANGED = "the model's file has changed, so it is being unloaded: try again, which uses the new file"
_FILE_CUT = (
    f"the process that ran the model died: {FILE_CUT}; move a whole new file into the place of the old one "
    "(mv) instead of writing into it, then send the request again"
)

InstanceEnd: TypeAlias = InstanceUnloaded | InstanceLoadFailed | InstanceCrashed


class InstanceEnds:
    """Explains how instances ended, from what was asked of them and how their processes exited."""

    def __init__(self, node: str, memory_kills: MemoryKills, is_stopping: Callable[[], bool]) -> None:
        """`is_stopping`: whether the node stops."""
        self._node = node
        self._memory_kills = memory_kills
        self._is_stopping = is_stopping

    def of(self, instance: Instance, exit_code: int) -> InstanceEnd:
        """The event that ends an instance. Also sets the error for those who wait for it."""
        if instance.phase == "loading":
            return self._load_failed(instance, exit_code)
        if instance.unloading is not None and instance.told_to_end:
            instance.failure = self.why_cut(instance)
            return self._unloaded(instance, instance.unloading)
        return self._crashed(instance, exit_code)

    def why_cut(self, instance: Instance) -> SuiteError:
        """What a client gets whose generation an unload has cut."""
        if self._is_stopping():
            return NodeStopping()
        if instance.unloading == "file_changed":
            return ModelUnloading(_FILE_CHANGED)
        return ModelUnloading()

    def _unloaded(self, instance: Instance, reason: UnloadReason) -> InstanceUnloaded:
        departure = instance.departure
        return InstanceUnloaded(
            node=self._node,
            model_id=instance.model.model_id,
            instance_id=instance.instance_id,
            reason=reason,
            freed_bytes=instance.freed_bytes,
            peak_bytes=instance.peak.total,
            gpus=dict(instance.peak.gpus),
            evicted_for=departure.evicted_for,
            decision_seq=departure.decision_seq,
            decision=departure.decision,
            requested_by=departure.requested_by,
            unused_seconds=instance.unused_seconds,
            keep_alive_seconds=departure.keep_alive_seconds,
        )

    def _load_failed(self, instance: Instance, exit_code: int) -> InstanceLoadFailed:
        model_id = instance.model.model_id
        reason: LoadFailureReason | None = None
        if instance.unloading is not None:
            instance.failure = LoadCancelled()
        elif instance.failure is None and self._memory_kills.explain(exit_code, instance.kills_before):
            reason = "out_of_memory"
            instance.failure = LoadFailed(f"the process that loaded {model_id} died: {_OUT_OF_MEMORY}")
        elif instance.failure is None:
            instance.failure = LoadFailed(
                f"the process that loaded {model_id} died with {described(exit_code)}: "
                f"{_last_errors(instance)}; check the file, or load it with other settings"
            )
        elif instance.process is None and isinstance(instance.failure, LoadFailed):
            reason = "not_started"
        failure = instance.failure
        return InstanceLoadFailed(
            node=self._node,
            model_id=model_id,
            instance_id=instance.instance_id,
            code=failure.code,
            message=failure.message,
            reason=reason,
            resident_bytes=instance.ready_footprint.total,
            gpus=dict(instance.ready_footprint.gpus),
            content=instance.sha256 or "" if instance.resident_bytes else "",
            settings_key=instance.model.settings_key if instance.resident_bytes else "",
        )

    def _crashed(self, instance: Instance, exit_code: int) -> InstanceCrashed:
        model_id = instance.model.model_id
        if self._memory_kills.explain(exit_code, instance.kills_before):
            reason: CrashReason | None = "out_of_memory"
            logger.error("the process of %s has died: %s", model_id, _OUT_OF_MEMORY)
            instance.failure = ActorCrashed(
                f"the process that ran the model died: {_OUT_OF_MEMORY}; then send the request again"
            )
        else:
            reason = None
            logger.error("%s crashed with %s: %s", model_id, described(exit_code), _last_errors(instance))
            instance.failure = ActorCrashed(_FILE_CUT if was_file_cut(exit_code) else None)
        use = instance.sole_use
        return InstanceCrashed(
            node=self._node,
            model_id=model_id,
            instance_id=instance.instance_id,
            exit_code=exit_code,
            generations=len(instance.leases),
            version=instance.version,
            variant="" if use is None else use.variant,
            variant_content="" if use is None else _content(instance, use),
            reason=reason,
            peak_bytes=instance.peak.total,
            gpus=dict(instance.peak.gpus),
        )


def _content(instance: Instance, lease: Lease) -> str:
    """The digest of what a generation was computed with; empty if that of the model is not known."""
    if instance.sha256 is None:
        return ""
    return digest_of(instance.sha256, ((each.sha256, each.scale) for each in lease.adapters))


def _last_errors(instance: Instance) -> str:
    return (instance.process and instance.process.last_errors) or "it said nothing"
