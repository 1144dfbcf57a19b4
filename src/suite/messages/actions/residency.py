"""Loading and unloading models."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from suite.messages.actions.base import ModelId, Reply, Request


class LoadModelRequest(Request, frozen=True, kw_only=True):
    """Load a model; a model that is loaded already answers at once."""

    model_id: ModelId
    wait: bool = True
    """False: answer when the load has begun."""
    stream: bool = False
    """True: send progress until the final reply."""


class LoadModelReply(Reply, frozen=True, kw_only=True):
    """The model is loaded, or with ``wait: false`` is being loaded."""

    model_id: str
    loaded: bool
    message: str
    seq: int
    """The event that says so: loaded, or load_started."""
    load_ms: float
    resident_bytes: int


class UnloadModelRequest(Request, frozen=True, kw_only=True):
    """Unload a model; unloading what is not loaded succeeds."""

    model_id: ModelId
    drain_ms: Annotated[int, Meta(ge=0, le=600_000)] = 30_000
    """How long running generations may go on before they are cancelled."""


class UnloadModelReply(Reply, frozen=True, kw_only=True):
    """The model's process is gone and its memory is back."""

    model_id: str
    unloaded: bool
    message: str
    seq: int | None
    freed_bytes: int
