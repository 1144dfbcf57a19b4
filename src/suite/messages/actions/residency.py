"""Loading and unloading models."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from suite.messages.actions.base import ModelId, Reply, Request


class LoadModelRequest(Request, frozen=True, kw_only=True):
    """Load a model. If it is loaded already, the reply comes at once."""

    model_id: ModelId
    wait: bool = True
    """False: reply as soon as the load has started."""
    stream: bool = False
    """True: send progress until the final reply."""


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
    """Unload a model. If it is not loaded, that succeeds too."""

    model_id: ModelId
    drain_ms: Annotated[int, Meta(ge=0, le=600_000)] = 30_000
    """How long to wait for running generations before they are cancelled."""


class UnloadModelReply(Reply, frozen=True, kw_only=True):
    """The model's process has ended, and its memory is freed."""

    model_id: str
    unloaded: bool
    message: str
    seq: int | None
    freed_bytes: int
