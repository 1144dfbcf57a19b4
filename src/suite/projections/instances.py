"""Tracks the instances of the whole fleet from the log: when they started, loaded and ended, and why.

Every loaded instance is counted as ended exactly once, whichever event reports it first: the instance's own,
or that its node stopped, restarted or was lost. So loads = unloads + crashes + instances loaded now.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

from suite.errors import LoadCancelled
from suite.messages.envelope import Recorded
from suite.messages.events import (
    InstanceCrashed,
    InstanceEvent,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
    NodeLifeEvent,
)
from suite.messages.times import to_sql

State: TypeAlias = Literal["loading", "loaded", "ended"]


class InstanceState(msgspec.Struct, frozen=True, kw_only=True):
    """The newest instance of a model on a node."""

    node: str
    model_id: str
    instance_id: str
    state: State
    reason: str | None = None
    """Why it ended: the reason of the unload, the error code of the failed load, or ``crashed``."""
    reserved_bytes: int
    resident_bytes: int = 0
    since: str
    """When it entered this state, in the format of times in SQL tables."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The increments that one event makes to the counts of a model."""

    model_id: str
    loads: int = 0
    load_failures: int = 0
    unloads: int = 0
    crashes: int = 0
    load_ms: float | None = None


class Instances:
    """The instances on some nodes, while events are applied to them."""

    def __init__(self, instances: Iterable[InstanceState] = ()) -> None:
        self._before = {(instance.node, instance.model_id): instance for instance in instances}
        self._now = dict(self._before)
        self.counts: list[Counts] = []
        """In the order of the events, because sums of floats depend on the order."""

    def changed(self) -> list[InstanceState]:
        """The instances that differ from those that the constructor was given."""
        return [instance for key, instance in self._now.items() if self._before.get(key) != instance]

    def apply(self, recorded: Recorded) -> None:
        """Apply one event. An event of an instance that is not the current one changes nothing."""
        event, since = recorded.data, to_sql(recorded.time)
        match event:
            case NodeLifeEvent():  # started, stopped or lost: all instances of its process are gone
                for instance in [instance for instance in self._now.values() if instance.node == event.node]:
                    self._end(instance, "node_lost", since)
            case InstanceLoadStarted():
                if (before := self._now.get((event.node, event.model_id))) is not None:
                    self._end(before, "node_lost", since)
                self._put(
                    InstanceState(
                        node=event.node,
                        model_id=event.model_id,
                        instance_id=event.instance_id,
                        state="loading",
                        reserved_bytes=event.reserved_bytes,
                        since=since,
                    )
                )
            case InstanceEvent():
                current = self._now.get((event.node, event.model_id))
                if current is not None and current.instance_id == event.instance_id:
                    self._go_on(current, event, since)

    def _go_on(self, instance: InstanceState, event: InstanceEvent, since: str) -> None:
        match event:
            case InstanceLoaded() if instance.state == "loading":
                self._put(
                    msgspec.structs.replace(
                        instance, state="loaded", resident_bytes=event.resident_bytes, since=since
                    )
                )
                self.counts.append(Counts(model_id=instance.model_id, loads=1, load_ms=event.load_ms))
            case InstanceLoadFailed():
                self._end(instance, event.code, since, failed=event.code != LoadCancelled.code)
            case InstanceUnloaded():
                self._end(instance, event.reason, since)
            case InstanceCrashed():
                self._end(instance, "crashed", since, failed=True)

    def _end(self, instance: InstanceState, reason: str, since: str, *, failed: bool = False) -> None:
        if instance.state == "ended":
            return
        self._put(msgspec.structs.replace(instance, state="ended", reason=reason, since=since))
        if instance.state == "loaded":
            self.counts.append(
                Counts(model_id=instance.model_id, unloads=int(not failed), crashes=int(failed))
            )
        elif failed:
            self.counts.append(Counts(model_id=instance.model_id, load_failures=1))

    def _put(self, instance: InstanceState) -> None:
        self._now[instance.node, instance.model_id] = instance
