"""Facts about instances: models that are loaded on a node."""

from __future__ import annotations

from typing import Literal

import msgspec

from suite.messages.decisions import Decision
from suite.messages.events.base import Event, event

UnloadReason = Literal[
    "requested", "idle", "evicted", "shutdown", "node_lost", "file_removed", "file_changed", "spare"
]
"""Why a model was unloaded; `spare`: it was a copy, and those on other nodes are enough."""


class InstanceEvent(Event, frozen=True, kw_only=True):
    """A fact about a loaded model on one node. Each load has its own ``instance_id``."""

    node: str
    model_id: str
    instance_id: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.node, self.model_id)


@event("instance", "load_started")
class InstanceLoadStarted(InstanceEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Memory was reserved, and the model's process has started to load."""

    reserved_bytes: int
    """In all memories together."""
    gpus: dict[str, int] = msgspec.field(default_factory=dict)
    """The part of it on each GPU, ``gpu0`` and so on, in bytes."""
    context_tokens: int
    evicting: tuple[str, ...] = ()
    """The models that are unloaded to make room."""
    content: str = ""
    """The SHA-256 of the model's files; empty if it was not known yet."""
    settings_key: str = ""
    """A short digest of those of its settings that change how it loads or what memory it takes; empty in
    events of versions that did not know it."""
    version: int = 0
    """Which version of the model it is, by number; 0: not known, or not yet."""
    decision: Decision | None = None
    """What was weighed, and what would have changed it. None in events of versions that did not say it."""


@event("instance", "loaded")
class InstanceLoaded(InstanceEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The model is ready. ``resident_bytes`` is measured; ``load_ms`` counts from the start of the load.

    What could not be measured is left out.
    """

    pid: int
    resident_bytes: int
    """The resident memory of its processes, mapped files included."""
    load_ms: float
    estimated_bytes: int = 0
    """What its file and its settings let expect; ``resident_bytes`` minus this is the error."""
    anonymous_bytes: int = 0
    """The part of ``resident_bytes`` that only the end of its processes frees."""
    file_bytes: int = 0
    """The part of ``resident_bytes`` that are pages of files, above all its weights."""
    weights_bytes: int = 0
    """What llama.cpp has allocated or mapped for the weights; of a page that was never touched nothing is
    resident."""
    kv_bytes: int = 0
    """What llama.cpp has allocated for the KV cache."""
    compute_bytes: int = 0
    """What llama.cpp has allocated to compute in."""
    gpu_bytes: int = 0
    """The part of these three that is in the memory of GPUs."""
    gpus: dict[str, int] = msgspec.field(default_factory=dict)
    """What it has on each GPU, ``gpu0`` and so on, in bytes: as the driver says, or at least what llama.cpp
    has allocated there. Empty in events of versions that did not tell GPUs apart."""
    process_ms: float | None = None
    """The part of ``load_ms`` since its process was begun: without the wait for the memory of others that had
    to leave first. None in events of versions that did not say it."""
    content: str = ""
    """The SHA-256 of the files that it has loaded; empty if it is not known."""
    settings_key: str = ""
    """As in the start of the load."""
    version: int = 0
    """Which version of the model it is, by number; 0: not known, or not yet."""


LoadFailureReason = Literal["out_of_memory", "not_started"]


@event("instance", "load_failed")
class InstanceLoadFailed(InstanceEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The model could not be loaded; ``code`` is the error that the requester got."""

    code: str
    message: str
    reason: LoadFailureReason | None = None
    """`out_of_memory`: the kernel killed its process for lack of memory; `not_started`: the system could not
    start one. None: neither, or not known."""
    resident_bytes: int = 0
    """What it was measured to need, on GPUs too, if that was more than it can have."""
    gpus: dict[str, int] = msgspec.field(default_factory=dict)
    """The part of it on each GPU, in bytes."""
    content: str = ""
    """The SHA-256 of the files that it was measured with."""
    settings_key: str = ""
    """The settings that it was measured with."""


@event("instance", "grew")
class InstanceGrew(InstanceEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The model's processes were measured to need more memory than it counted for."""

    reserved_bytes: int
    """What it counts for from now on, in all memories together."""
    gpus: dict[str, int] = msgspec.field(default_factory=dict)
    """The part of it on each GPU, in bytes."""


@event("instance", "unloaded")
class InstanceUnloaded(InstanceEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The model's process has ended, and its memory is freed."""

    reason: UnloadReason
    freed_bytes: int
    peak_bytes: int = 0
    """The most memory that its processes had together, on GPUs too."""
    gpus: dict[str, int] = msgspec.field(default_factory=dict)
    """The part of it on each GPU, in bytes."""
    evicted_for: str = ""
    """The model that was loaded into its memory; empty: none, or not known."""
    decision_seq: int = 0
    """The event that has the decision to load that model; 0: none, or not known."""
    decision: Decision | None = None
    """What was weighed when it left because all models together needed more memory than there is."""
    requested_by: str = ""
    """How the client that had it unloaded calls itself; empty: not known."""
    unused_seconds: float | None = None
    """For how long it had not been used. None: not known."""
    keep_alive_seconds: float | None = None
    """After how many unused seconds it was to be unloaded, for those that left because they were idle."""


CrashReason = Literal["out_of_memory"]


@event("instance", "crashed")
class InstanceCrashed(InstanceEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The model's process died unexpectedly, with its running generations."""

    exit_code: int
    generations: int
    version: int = 0
    """Which version of the model it was, by number; 0: not known."""
    variant: str = ""
    """The name that all running generations were asked for by, if it stands for the model with adapters:
    these may be why. Empty: nothing ran, or something else too."""
    variant_content: str = ""
    """The digest of what that name stands for, as in ``registered``; empty if it is not known."""
    reason: CrashReason | None = None
    """`out_of_memory`: the kernel killed it for lack of memory. None: not known."""
    peak_bytes: int = 0
    """The most memory that its processes had together, on GPUs too."""
    gpus: dict[str, int] = msgspec.field(default_factory=dict)
    """The part of it on each GPU, in bytes."""
