"""What memory models were measured to need: a fold of one node's instance events.

The next load of the same content with the same settings reserves what the last ones needed, instead of an
estimate. A model needs more in use than when it is ready: buffers are touched, grammars run, conversations
are kept. So the largest of the last loads counts, and what was seen once does not count for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Final, NamedTuple, TypeAlias

import msgspec

from suite.domain.footprint import Footprint, gpu_name
from suite.messages.events import (
    Event,
    InstanceCrashed,
    InstanceGrew,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceUnloaded,
)

LOADS: Final = 8
"""How many loads of the same content and settings are remembered."""


class SizeKey(NamedTuple):
    """What a size was measured of."""

    content: str
    """The SHA-256 of the files."""
    settings_key: str


class MeasuredLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What one load needed."""

    ready_bytes: Footprint
    """When it was ready. With less it cannot be loaded."""
    peak_bytes: Footprint
    """At most, in each memory."""


class Need(NamedTuple):
    """What a load is to have."""

    ready_bytes: Footprint
    """At least: with less it cannot be loaded."""
    peak_bytes: Footprint
    """If it can have so much. Without it, caches give way."""


Sizes: TypeAlias = Mapping[SizeKey, Mapping[str, MeasuredLoad]]
"""The last loads by instance id, the newest last, for each content with its settings."""


def evolve(sizes: Sizes, event: Event) -> Sizes:
    """The sizes after one event; what does not say its content is not remembered."""
    match event:
        case InstanceLoaded() | InstanceLoadFailed() if event.resident_bytes and event.content:
            size = ready_bytes(event)
            load = MeasuredLoad(ready_bytes=size, peak_bytes=size)
            return remember(sizes, SizeKey(event.content, event.settings_key), event.instance_id, load)
        case InstanceGrew() | InstanceUnloaded() | InstanceCrashed():
            return _raise(sizes, event)
        case _:
            return sizes


def ready_bytes(event: InstanceLoaded | InstanceLoadFailed) -> Footprint:
    """What a load was measured to need when it was ready, in RAM and on GPUs.

    Versions that knew one memory did not say on which GPU: it counts for the first.
    """
    if isinstance(event, InstanceLoadFailed):
        return Footprint.of(event.resident_bytes, event.gpus)
    gpus = event.gpus or ({gpu_name(0): event.gpu_bytes} if event.gpu_bytes else {})
    return Footprint(event.resident_bytes, gpus)


def peak_bytes(
    event: InstanceGrew | InstanceUnloaded | InstanceCrashed, ready_on_gpus: Mapping[str, int]
) -> Footprint:
    """The most that an instance was measured to need, in RAM and on GPUs.

    `ready_on_gpus` is what it had on each GPU when it was ready. Versions that knew one memory said a total
    only: so much of it was on GPUs.
    """
    total = event.reserved_bytes if isinstance(event, InstanceGrew) else event.peak_bytes
    return Footprint.of(total, event.gpus or ready_on_gpus)


def remember(sizes: Sizes, key: SizeKey, instance_id: str, load: MeasuredLoad) -> Sizes:
    """The sizes with one load more."""
    loads = {**sizes.get(key, {}), instance_id: load}
    return {**sizes, key: dict(list(loads.items())[-LOADS:])}


def merged(earlier: Sizes, later: Sizes) -> Sizes:
    """The sizes of two stretches of the log, of which the later one may begin in the earlier one."""
    sizes = earlier
    for key, loads in later.items():
        for instance_id, load in loads.items():
            sizes = remember(sizes, key, instance_id, load)
    return sizes


def _raise(sizes: Sizes, event: InstanceGrew | InstanceUnloaded | InstanceCrashed) -> Sizes:
    for key, loads in sizes.items():
        load = loads.get(event.instance_id)
        if load is None:
            continue
        peak = peak_bytes(event, load.ready_bytes.gpus)
        if not peak.is_within(load.peak_bytes):
            raised = msgspec.structs.replace(load, peak_bytes=load.peak_bytes.at_least(peak))
            return {**sizes, key: {**loads, event.instance_id: raised}}
    return sizes


def need(sizes: Sizes, key: SizeKey) -> Need | None:
    """The memory for a load: what the last ones needed; None if there were none."""
    loads = sizes.get(key)
    if not loads:
        return None
    ready = reduce(Footprint.at_least, (load.ready_bytes for load in loads.values()))
    return Need(ready, reduce(Footprint.at_least, (load.peak_bytes for load in loads.values())))
