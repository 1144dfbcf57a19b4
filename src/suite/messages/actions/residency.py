"""Loading and unloading models."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from suite.messages.actions.base import (
    ContextLength,
    FleetReply,
    KeepAlive,
    LoadWait,
    ModelId,
    Reply,
    Request,
)


class LoadModelRequest(Request, frozen=True, kw_only=True):
    """Load a model. If it is loaded already, the reply comes at once.

    If there is no memory for it now, it waits for its turn: until other models are idle or had theirs.
    """

    model_id: ModelId
    wait: bool = True
    """False: reply as soon as the load has started."""
    stream: bool = False
    """True: send progress until the final reply."""
    load_wait_ms: LoadWait = None
    keep_alive: KeepAlive = None
    context_length: ContextLength = None
    purpose: Literal["request", "preload", "pin", "replica", "promotion"] = "request"
    """What for, as the events of the load say it. Only nodes may send the others, to each other."""
    only_evicting: tuple[str, ...] | None = None
    """Only these models may leave for it; null: any that may leave at all. Only nodes may send others."""


class LoadModelReply(Reply, frozen=True, kw_only=True):
    """The model is loaded or, with ``wait: false``, being loaded."""

    model_id: str
    loaded: bool
    message: str
    seq: int
    """The sequence of the ``loaded`` or ``load_started`` event."""
    load_ms: float
    resident_bytes: int


class UnloadModelRequest(Request, frozen=True, kw_only=True):
    """Unload a model, from all nodes that have it loaded. If it is not loaded, that succeeds too."""

    model_id: ModelId
    drain_ms: Annotated[int, Meta(ge=0, le=600_000)] = 30_000
    """How long to wait for running generations before they are cancelled."""
    reason: Literal["requested", "spare"] = "requested"
    """Why, as the event says it; `spare`: copies on other nodes are enough. Only nodes may send that one, and
    it is refused while the model is in use."""


class UnloadModelReply(FleetReply, frozen=True, kw_only=True):
    """The model's process has ended, and its memory is freed; where several nodes had it, on all of them."""

    model_id: str
    unloaded: bool
    message: str
    seq: int | None
    freed_bytes: int
    """On all nodes together."""


class PinModelRequest(Request, frozen=True, kw_only=True):
    """Keep a model loaded, also after a restart, until it is unpinned: on the ``node`` that is named, or else
    on the one where it is best, and on another one when that one drains or is lost.

    It is loaded as soon as there is memory. It is not unloaded for another model nor when it is idle, and
    memory is kept for it also while it is not loaded.
    """

    model_id: ModelId


class PinModelReply(Reply, frozen=True, kw_only=True):
    """The model is pinned. Its load goes on."""

    model_id: str
    node: str
    message: str
    seq: int | None
    """The sequence of the ``pinned`` event; null if it was pinned already."""


class UnpinModelRequest(Request, frozen=True, kw_only=True):
    """Stop keeping a model loaded, on all nodes. It stays until it is idle or another needs the memory."""

    model_id: ModelId


class UnpinModelReply(FleetReply, frozen=True, kw_only=True):
    """The model is not pinned any more."""

    model_id: str
    node: str
    """Where it was pinned; of several nodes the first. If it was pinned nowhere, the one that answers."""
    message: str
    seq: int | None
    """The sequence of the ``unpinned`` event; null if it was not pinned."""


class ReleaseModelRequest(Request, frozen=True, kw_only=True):
    """End the quarantine of a model on all nodes: forget that it failed, so it is loaded again.

    A model that failed twice in a row or more, at its load or soon after, is left alone for a while:
    requests for it are refused with `model_quarantined`. So is a name that stands for a model with adapters,
    if the model crashed while nothing else was computed; with such a name its model is released as well.
    """

    model_id: ModelId


class ReleaseModelReply(FleetReply, frozen=True, kw_only=True):
    """The model is not quarantined. It is not loaded by this."""

    model_id: str
    node: str
    """Where it was quarantined; of several nodes the first. If it was not, the one that answers."""
    message: str
    seq: int | None
    """The sequence of the ``released`` event; null if it was not quarantined."""
