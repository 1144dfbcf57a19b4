"""What must hold in every log, whatever died while it was written."""

from __future__ import annotations

from collections.abc import Sequence

from suite.messages.envelope import Recorded
from suite.messages.events import (
    Generated,
    InstanceCrashed,
    InstanceEvent,
    InstanceGrew,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
    NodeStarted,
)


def check_once(events: Sequence[Recorded]) -> None:
    """No event and no generation is there twice."""
    generated = [event.data.generation_id for event in events if isinstance(event.data, Generated)]
    assert len(set(generated)) == len(generated)
    assert len({event.id for event in events}) == len(events)


def check_instances(events: Sequence[Recorded]) -> None:
    """Each instance lived one life: began once, was ready at most once, ended at most once, in this order."""
    lives: dict[str, list[Recorded]] = {}
    for event in events:
        if isinstance(event.data, InstanceEvent) and not isinstance(event.data, InstanceGrew):
            lives.setdefault(event.data.instance_id, []).append(event)
    for life in lives.values():
        kinds = [type(event.data) for event in life]
        assert kinds[0] is InstanceLoadStarted
        was_loaded = kinds[1:2] == [InstanceLoaded]
        endings = kinds[2:] if was_loaded else kinds[1:]
        allowed = {InstanceUnloaded, InstanceCrashed if was_loaded else InstanceLoadFailed}
        assert len(endings) <= 1
        assert set(endings) <= allowed


def check_fencing(events: Sequence[Recorded]) -> None:
    """No process wrote of an instance that another process of its name had begun, but to close it."""
    epochs: dict[str, int] = {}
    begun_in: dict[str, int] = {}
    for event in events:
        match event.data:
            case NodeStarted(node=node):
                epochs[node] = event.seq
            case InstanceLoadStarted(instance_id=instance_id, node=node):
                begun_in[instance_id] = epochs[node]
            case InstanceUnloaded(reason="node_lost"):
                pass
            case InstanceEvent(instance_id=instance_id, node=node):
                assert begun_in[instance_id] == epochs[node], event
