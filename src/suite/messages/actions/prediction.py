"""Which models are needed next, and having them ready."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from suite.messages.actions.base import ModelId, Name, Query, Reply, Request


class PredictModelsRequest(Query, frozen=True, kw_only=True):
    """Which models are likely to be used next?"""

    limit: Annotated[int, Meta(ge=1, le=100)] = 3


class PredictModelsReply(Reply, frozen=True, kw_only=True):
    """The likeliest first; fewer when fewer were used."""

    predicted_models: tuple[str, ...]
    policy: str


class PreloadModelsRequest(Request, frozen=True, kw_only=True):
    """Load models before they are needed."""

    model_ids: Annotated[tuple[ModelId, ...], Meta(min_length=1, max_length=100)]


class PreloadOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one model."""

    loaded: bool
    message: str
    code: str | None = None
    """Of the error, if it could not be loaded."""
    seq: int | None = None


class PreloadModelsReply(Reply, frozen=True, kw_only=True):
    """The outcome of each model, by the id that was sent."""

    message: str
    results: dict[str, PreloadOutcome]


class SelectModelRequest(Query, frozen=True, kw_only=True):
    """Which model should do this? One that is loaded rather than one that is not, then the most trusted."""

    capability: Name | None = None
    """One of ``capabilities`` in list_models; None: any."""


class SelectModelReply(Reply, frozen=True, kw_only=True):
    """The choice, and what came after it."""

    model_id: str
    loaded: bool
    trust: float | None
    """None: nothing is known of it."""
    others: tuple[str, ...]
