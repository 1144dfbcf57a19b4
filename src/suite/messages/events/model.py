"""Facts about models: the files that nodes have, each under an id."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from suite.messages.events.base import Event, event


class ModelEvent(Event, frozen=True, kw_only=True):
    """A fact about one model: a GGUF file under an id."""

    model_id: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.model_id,)


class AppliedAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter that a model was computed with."""

    id: str
    sha256: str
    """The digest of its file."""
    scale: float


@event("model", "registered")
class ModelRegistered(ModelEvent, frozen=True, kw_only=True, omit_defaults=True):
    """A node found this file under this id; it is new, or has other content or settings than before.

    Each content with each settings is a version of the model, numbered in the order of the log (ADR 70). A
    name that stands for a model with adapters is registered like a model; what is told of a file is then of
    those of the adapters, what is told of a model of its base (ADR 73).
    """

    node: str
    file_name: str
    file_bytes: int
    sha256: str
    architecture: str
    parameters: int
    quantization: str
    trained_context_tokens: int
    settings: dict[str, str | int | float | bool] | None = None
    """The settings that tell versions apart, as far as they are not the defaults; a chat template as its
    digest. None in events of versions that did not say it."""
    source: str = ""
    """Where it is from: the program whose folder it is in, and the repository if that is known. Empty in
    events of versions that did not say it."""
    base: str = ""
    """The id of the model that it is with adapters; empty: it is a model itself. ``sha256`` is then a digest
    of those of all files, with the scales."""
    base_sha256: str = ""
    """The content of that model; empty: it is a model itself."""
    adapters: tuple[AppliedAdapter, ...] = ()
    """What that model is computed with."""


@event("model", "removed")
class ModelRemoved(ModelEvent, frozen=True, kw_only=True):
    """The file is gone from the node's model directories."""

    node: str


@event("model", "pinned")
class ModelPinned(ModelEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The node keeps this model loaded from now on."""

    node: str
    may_move: bool = False
    """Whether another node keeps it instead when this one drains or is lost: nobody has named this one."""


@event("model", "unpinned")
class ModelUnpinned(ModelEvent, frozen=True, kw_only=True):
    """The node need not keep this model loaded any more."""

    node: str


@event("model", "quarantined")
class ModelQuarantined(ModelEvent, frozen=True, kw_only=True):
    """The model failed again and again on this node, which does not load it before `until` (ADR 43).

    That holds for this content with these settings only.
    """

    node: str
    content: str
    """The SHA-256 of the files that failed; empty if it was not known yet."""
    settings_key: str
    """The digest of the settings that they failed with, as in ``load_started``."""
    failures: int
    """How many times in a row it failed."""
    until: datetime
    instance_id: str
    """The instance that failed last."""
    reason: str
    """How that one failed, for people."""


ReleaseReason = Literal["requested", "worked"]


@event("model", "released")
class ModelReleased(ModelEvent, frozen=True, kw_only=True):
    """The node loads this model again like any other: somebody has said so, or it was tried and worked."""

    node: str
    reason: ReleaseReason
